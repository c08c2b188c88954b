"""A listing in parts is the whole listing, whatever the keys, the order of the answers and the server's own order."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sam3lt_ray.storage.split_listing import PAGES_BEFORE_CUTTING, PartsDoNotJoinError, SplitListing

PREFIX = "data/"


class Server:
    """ListObjectsV2 over keys that begin with the prefix.

    Args:
        keys: All keys.
        page_keys: Keys in a page.
        order: Its order; None: that of UTF-8 bytes, as S3 has it.
        knows_start_after: Otherwise it lists from the beginning.
        begins_late: Keys that it leaves out after StartAfter.
    """

    def __init__(
        self,
        keys: Sequence[str],
        page_keys: int,
        order: Callable[[str], Any] | None = None,
        *,
        knows_start_after: bool = True,
        begins_late: int = 0,
    ) -> None:
        self._order = order or (lambda key: key.encode())
        self.keys = sorted(keys, key=self._order)
        self._sorted = [self._order(key) for key in self.keys]
        self._page_keys = page_keys
        self._knows_start_after = knows_start_after
        self._begins_late = begins_late
        self.requests = 0

    def answer(self, request: dict[str, str]) -> dict[str, Any]:
        self.requests += 1
        assert self.requests <= 100 + 20 * len(self.keys), "it goes on for ever"
        first = int(request.get("ContinuationToken", 0))
        if "StartAfter" in request and self._knows_start_after:
            first = bisect_right(self._sorted, self._order(request["StartAfter"])) + self._begins_late
        end = first + self._page_keys
        page: dict[str, Any] = {"IsTruncated": end < len(self.keys)}
        if first < len(self.keys):
            page["Contents"] = [{"Key": key} for key in self.keys[first:end]]
        return page | ({"NextContinuationToken": str(end)} if page["IsTruncated"] else {})


def listed(server: Server, *, at_once: int = 16, seed: int = 1) -> list[str]:
    """Everything, with answers that come in a random order."""
    chance, listing, on_their_way = random.Random(seed), SplitListing[str](PREFIX, at_once), list[Any]()
    while True:
        on_their_way += [(part, server.answer(part.parameters())) for part in listing.next_parts()]
        assert len(on_their_way) <= at_once
        if not on_their_way:
            return listing.joined()
        part, page = on_their_way.pop(chance.randrange(len(on_their_way)))
        part.found += [entry["Key"] for entry in listing.receive(part, page)]


ALPHABETS = ["0123456789", "ab/-.0", "0/", "abc", "a\ud7ff\ue000\uffff\U0010ffff\x00\x7f\x80", "é/-\U0001f600~Z"]


@st.composite
def many_keys(draw: st.DrawFn) -> list[str]:
    """Far more than hypothesis would draw one by one; short names among them, which may be where a cut is."""
    chance = random.Random(draw(st.integers(0, 10**6)))
    alphabet, most = draw(st.sampled_from(ALPHABETS)), draw(st.integers(2, 8))
    count, start = draw(st.integers(0, 400)), draw(st.sampled_from(["", "a/", "shard-"]))
    names = {"".join(chance.choices(alphabet, k=chance.randint(1, most))) for _ in range(count)}
    return [f"{PREFIX}{start}{name}" for name in sorted(names)]


KEYS = many_keys()


@given(KEYS, st.integers(1, 5), st.integers(1, 16), st.integers())
@example([f"{PREFIX}{number:05d}.tar" for number in range(3000)], 5, 16, 1)
@example([f"{PREFIX}\U0010ffff{number:03d}" for number in range(300)], 2, 16, 1)
def test_everything_is_found_once_and_in_order(keys: list[str], page_keys: int, at_once: int, seed: int) -> None:
    server = Server(keys, page_keys)
    assert listed(server, at_once=at_once, seed=seed) == server.keys


@given(KEYS, st.integers(1, 5), st.integers(), st.booleans())
def test_a_server_of_another_kind_is_found_out_or_told_exactly(
    keys: list[str], page_keys: int, seed: int, knows_start_after: bool
) -> None:
    # As servers sort that keep real directories; and backwards.
    for order in (lambda key: key.split("/"), lambda key: [-ord(character) for character in key]):
        server = Server(keys, page_keys, order, knows_start_after=knows_start_after)
        try:
            assert listed(server, seed=seed) == server.keys
        except PartsDoNotJoinError:
            assert listed(server, at_once=1) == server.keys


@pytest.mark.parametrize("knows_start_after", [True, False])
def test_one_request_at_a_time_is_the_plain_listing(knows_start_after: bool) -> None:
    server = Server([f"{PREFIX}{number:04d}" for number in range(995)], 10, knows_start_after=knows_start_after)
    assert listed(server, at_once=1) == server.keys
    assert server.requests == 100


@pytest.mark.parametrize("pages", range(PAGES_BEFORE_CUTTING + 1))
def test_a_short_listing_costs_no_more_than_its_pages(pages: int) -> None:
    server = Server([f"{PREFIX}{number:04d}" for number in range(10 * pages)], 10)
    assert listed(server) == server.keys
    assert server.requests == max(1, pages)


def test_a_server_that_ignores_where_to_begin_is_found_out_at_once() -> None:
    server = Server([f"{PREFIX}{number:06d}" for number in range(10_000)], 10, knows_start_after=False)
    with pytest.raises(PartsDoNotJoinError):
        listed(server)
    assert server.requests < 100


def test_a_server_that_begins_too_late_is_found_out() -> None:
    server = Server([f"{PREFIX}{number:06d}" for number in range(10_000)], 10, begins_late=1)
    with pytest.raises(PartsDoNotJoinError):
        listed(server)


COMMON_NAMES: list[Callable[[int], str]] = [
    lambda number: f"{number:07d}.tar",
    lambda number: f"imagenet-train-{number:07d}-of-0040000.tar",
    lambda number: f"{number % 7}/{number // 7:06d}.tar",
    lambda number: f"{number // 100:04d}/{number % 100:02d}.tar",
    lambda number: f"{number}.tar",
    lambda number: f"{number * 2654435761 % 2**32:08x}.tar",
    lambda number: f"{number // 4:07d}.tar-{number // 4 * 2654435761 % 2**32:08x}/{number % 4 * 250:010d}.parquet",
]


@pytest.mark.parametrize("name", COMMON_NAMES)
def test_common_names_are_listed_by_many_requests_at_a_time_and_few_more(name: Callable[[int], str]) -> None:
    count, page_keys = 40_000, 100
    server = Server([PREFIX + name(number) for number in range(count)], page_keys)
    listing, turns = SplitListing[str](PREFIX), 0
    while parts := listing.next_parts():
        turns += 1
        for part in parts:
            part.found += [entry["Key"] for entry in listing.receive(part, server.answer(part.parameters()))]
    assert listing.joined() == server.keys
    assert turns <= count / page_keys / 6
    assert server.requests <= count / page_keys * 1.5
