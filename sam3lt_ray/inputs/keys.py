"""How long a name may be. Names come from the input, stand in rows and messages, and are in no limit on image bytes."""

from __future__ import annotations

from typing import Final

MAX_KEY_BYTES: Final = 4_096  # as long as a path may be on Linux
_MAX_SHOWN: Final = 100  # characters


def is_too_long(key: str) -> bool:
    """Whether a key has more than ``MAX_KEY_BYTES`` as UTF-8."""
    return len(key) > MAX_KEY_BYTES or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES


def shown(name: str) -> str:
    """A name for a sentence: its beginning, where it is long."""
    return name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}..."


def long_key_message() -> str:
    """The sentence for an image whose name is too long to be its key."""
    return f"Its name has more than {MAX_KEY_BYTES:,} bytes, so a shortened one with its position stands for it."
