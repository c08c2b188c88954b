"""Why images became error rows, in sentences that can be counted: the same cause, whatever the image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

# What differs between two images with the same trouble: quoted names and bytes, paths and uris, numbers.
_PARTICULARS: Final = re.compile(r"""(?<!\w)b?'[^']*'(?!\w)|(?<!\w)b?"[^"]*"(?!\w)|\S*/\S+[^\s.,;:)]|\d+(?:[.,]\d+)*""")
_MAX_LENGTH: Final = 200
# More than anybody reads. A decoder that words its trouble anew for every image must not fill memory and footers.
_KEPT: Final = 50


def cause_of(kind: str, message: str) -> str:
    """An error row's cause: its kind, and its message without what is peculiar to the image."""
    sentence = _PARTICULARS.sub("…", message)
    short = sentence if len(sentence) <= _MAX_LENGTH else sentence[: _MAX_LENGTH - 1] + "…"
    return f"{kind}: {short}"


def add_up_causes(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum of several counts; of very many causes the commonest ones are kept, so rare ones may be missing."""
    total = Counter[str]()
    for one in counts:
        total.update(one)
    return dict(total.most_common(_KEPT))
