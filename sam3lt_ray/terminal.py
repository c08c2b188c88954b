"""Text on its way to a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# Names of images and messages of servers may hold orders to a terminal.
# Control characters but newline and tab; those that turn the direction of what follows; halves of characters.
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """The text, with every character that a terminal would obey written out: an escape as backslash and "u001b".

    JSON stays JSON with the same content: such characters stand only inside its strings, where they may be written so.
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def count_of(number: int, noun: str, plural: str = "s") -> str:
    """``1 unit``, ``1,234 units``."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def name_some(names: Sequence[str], most: int) -> str:
    """As in: a, b, c, ... (where there are more than ``most``)."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
