"""One listing by several requests at a time: the plan of who asks for what, without any asking.

S3 gives a thousand keys a page, and each page names the next one: a million keys are a thousand answers, one after
another. But a listing may also begin after any key (StartAfter). So a long listing is cut into *parts*, each of which
is walked page by page until it comes to the beginning of the next one.

Where to cut follows from the keys themselves. After "0000999.tar" the key that follows all of "00..." is the first of a
part that may be large, and its first page shows where that part can be cut in turn. A cut where nothing is costs one
request.

Nothing rests on where the cuts are, nor on the order in which a server lists. The key at which a part's walk ended must
be the one with which the next part began: so the walks together are one walk through the whole listing, without a hole.
Servers that order keys in a way of their own, or do not know StartAfter, are found by that.
"""

from __future__ import annotations

import os.path
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

REQUESTS_AT_ONCE: Final = 16
# A listing this long is walked by one request after another, as cheaply as can be.
PAGES_BEFORE_CUTTING: Final = 4
_SURROGATES: Final = range(0xD800, 0xE000)


class PartsDoNotJoinError(Exception):
    """The parts are not one listing: the server has another order, or ignored where a part was to begin."""


@dataclass(slots=True, eq=False)
class Part(Generic[T]):
    """A stretch of the listing.

    Attributes:
        after: It begins behind this key; "": at the very beginning.
        end: It ends with this key; None: with the listing.
        found: What was made of its entries.
        first_key: The first key that the server told, even where it is behind the end already; None: there was none.
        stopped_at: The first key behind the end; None: the listing ended.
        token: Names its next page.
        page_start: Where the keys of its latest page begin to differ.
        last_key: Its last key so far.
        may_cut: It has received something since it was cut the last time.
        is_in_order: As far as was looked, its keys came in the order of their bytes. Others are not cut.
        is_done: It is whole.
        is_asked: A page of it is on its way.
    """

    after: str
    end: str | None
    found: list[T] = field(default_factory=list)
    first_key: str | None = None
    stopped_at: str | None = None
    token: str | None = None
    page_start: int = 0
    last_key: str = ""
    may_cut: bool = False
    is_in_order: bool = True
    is_done: bool = False
    is_asked: bool = False

    def parameters(self) -> dict[str, str]:
        """What to ask for its next page, besides bucket and prefix."""
        if self.token is not None:
            return {"ContinuationToken": self.token}
        return {"StartAfter": self.after} if self.after else {}


class SplitListing(Generic[T]):
    """Which pages of a listing to ask for, and what came.

    Args:
        prefix: That of all keys.
        at_once: Requests on their way at a time, at most; with 1 nothing is cut.
    """

    def __init__(self, prefix: str, at_once: int = REQUESTS_AT_ONCE) -> None:
        self._prefix = prefix
        self._at_once = at_once
        self._parts: list[Part[T]] = [Part("", None)]  # in the order of the listing
        self._pages = 0

    def next_parts(self) -> list[Part[T]]:
        """Parts whose next page is to be asked for now; they count as asked. With no page on its way: all is here."""
        active = [part for part in self._parts if not part.is_done]
        while self._pages >= PAGES_BEFORE_CUTTING and 0 < len(active) < self._at_once:
            new = self._cut(active)
            if new is None:
                break
            active.append(new)
        chosen = [part for part in active if not part.is_asked]
        for part in chosen:
            part.is_asked = True
        return chosen

    def receive(self, part: Part[T], page: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        """Take in a page (ListObjectsV2) that a part has asked for.

        Returns:
            Its entries that belong to the part.

        Raises:
            PartsDoNotJoinError: The server did not begin where it should.
        """
        entries: Sequence[dict[str, Any]] = page.get("Contents", ())
        self._pages += 1
        part.is_asked, part.may_cut = False, True
        if part.first_key is None and entries:
            part.first_key = entries[0]["Key"]
        if part.after and entries and min(entries[0]["Key"], entries[-1]["Key"]) <= part.after:
            raise PartsDoNotJoinError
        if part.end is not None:
            behind = next((n for n, entry in enumerate(entries) if entry["Key"] > part.end), None)
            if behind is not None:
                part.stopped_at, part.is_done = entries[behind]["Key"], True
                entries = entries[:behind]
        if not part.is_done:
            part.token = page["NextContinuationToken"] if page.get("IsTruncated") else None
            part.is_done = part.token is None
        if entries:
            first, last = entries[0]["Key"], entries[-1]["Key"]
            if not part.last_key <= first <= last:
                part.is_in_order = False
            part.last_key, part.page_start = last, _num_shared(first, last)
        elif part.is_done and not part.last_key and part.after:
            # Nothing is there. The part before was not made smaller by that cut: it may be cut further inside.
            self._parts[self._parts.index(part) - 1].may_cut = True
        return entries

    def joined(self) -> list[T]:
        """What was found, in the order of the server's listing; to be asked for once, at the end.

        Raises:
            PartsDoNotJoinError: The parts are not one listing.
        """
        found: list[T] = []
        expected = self._parts[0].first_key
        for part in self._parts:
            if part.first_key != expected:
                raise PartsDoNotJoinError
            expected = part.stopped_at
            found += part.found
            part.found.clear()
        return found

    def _cut(self, active: Sequence[Part[T]]) -> Part[T] | None:
        """Cut the part of which most may be left: that where the keys still to come differ earliest."""
        places = [
            (depth, part)
            for part in active
            if part.may_cut and part.is_in_order and (depth := _place_to_cut(part, self._prefix)) is not None
        ]
        if not places:
            return None
        depth, part = min(places, key=lambda place: place[0])
        after = _behind(part.last_key, depth)
        assert after is not None
        new = Part[T](after, part.end)
        part.end, part.may_cut = after, False
        self._parts.insert(self._parts.index(part) + 1, new)
        return new


def _place_to_cut(part: Part[Any], prefix: str) -> int | None:
    """The least number of characters of the last key whose followers lie within the part; None: not worth it."""
    least = len(prefix) if part.end is None else _num_shared(part.last_key, part.end)
    # What the whole latest page begins with may go on for many pages; what changes within a page does not.
    for depth in range(max(least, len(prefix)), part.page_start):
        behind = _behind(part.last_key, depth)
        if behind is not None and (part.end is None or behind < part.end):
            return depth
    return None


def _num_shared(one: str, other: str) -> int:
    """Characters that both begin with."""
    return len(os.path.commonprefix([one, other]))  # noqa: RUF071  (characters are meant, not parts of a path)


def _behind(key: str, depth: int) -> str | None:
    """A string behind all keys that share ``depth + 1`` characters with this one; None where no character follows.

    Python compares strings by code points, which is the order of their UTF-8 bytes.
    """
    following = ord(key[depth]) + 1
    if following in _SURROGATES:
        following = _SURROGATES.stop
    return None if following > sys.maxunicode else key[:depth] + chr(following)
