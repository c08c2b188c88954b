"""The ledger: which units are committed, read from the names of the files under ``labels/`` and from nothing else.

A unit is committed if and only if its file exists. The name says which images it holds and whether the shard ends with
it, so that planning opens no finished file, whatever the number of images.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.records import UnitRange

LABELS_PREFIX: Final = "labels"
_UNIT_PATH: Final = re.compile(
    r"^labels/(?P<layer>[^/]+)/(?P<shard>[^/]+)/(?P<first>\d{10})-(?P<count>\d{7})(?P<last>\.last)?\.parquet$"
)
_SLUG_LENGTH: Final = 80
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One committed unit as its file name tells it."""

    layer: str
    shard_dir: str
    range: UnitRange

    @property
    def path(self) -> str:
        """Path of the unit's file inside the run directory."""
        last = ".last" if self.range.is_last else ""
        name = f"{self.range.first:010d}-{self.range.count:07d}{last}.parquet"
        return f"{LABELS_PREFIX}/{self.layer}/{self.shard_dir}/{name}"


def shard_directory(shard_name: str) -> str:
    """Directory name for a shard: readable, one path segment on every store, and different for different names.

    The readable part is lossy (``../``, slashes, NUL and non-ASCII text become ``_``); the hash behind it is what
    tells names apart, also on file systems that fold case or normalise Unicode.
    """
    slug = _UNSAFE.sub("_", shard_name)[-_SLUG_LENGTH:].lstrip(".")
    digest = hashlib.sha256(shard_name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{slug}-{digest}"


def refuse_shared_directories(shard_names: Iterable[str]) -> None:
    """Refuse shards that would share a directory: one would count as labeled as soon as the other is.

    Chance does not do that. But 48 bits of hash are few enough for somebody to search two names for.

    Raises:
        InputError: Names the two shards.
    """
    taken: dict[str, str] = {}
    for name in shard_names:
        other = taken.setdefault(shard_directory(name), name)
        if other != name:
            raise InputError(
                f"The shards {other!r} and {name!r} would share a directory in the run, because their names have the "
                "same hash. Rename one of them."
            )


def unit_path(layer: str, shard_name: str, unit_range: UnitRange) -> str:
    """Path of a unit's file inside the run directory."""
    return UnitFile(layer, shard_directory(shard_name), unit_range).path


def parse_unit_path(path: str) -> UnitFile | None:
    """The unit that a path names; None when the path is not a unit's (a stray file somebody put there)."""
    match = _UNIT_PATH.match(path)
    if match is None:
        return None
    unit_range = UnitRange(int(match["first"]), int(match["count"]), match["last"] is not None)
    return UnitFile(match["layer"], match["shard"], unit_range)


@dataclass(slots=True)
class Ledger:
    """Committed units of one layer, by shard directory."""

    layer: str
    _units: dict[str, list[UnitRange]] = field(default_factory=dict)

    @classmethod
    def from_paths(cls, layer: str, paths: Iterable[str]) -> Ledger:
        """Build from a listing of the run directory; paths of other layers and stray files are passed over."""
        ledger = cls(layer)
        for path in paths:
            unit = parse_unit_path(path)
            if unit is not None and unit.layer == layer:
                ledger._units.setdefault(unit.shard_dir, []).append(unit.range)
        for shard_dir, ranges in ledger._units.items():
            ranges.sort(key=lambda r: (r.first, r.count))
            _refuse_overlap(layer, shard_dir, ranges)
        return ledger

    def units(self, shard_name: str) -> tuple[UnitRange, ...]:
        """Committed units of a shard, in order."""
        return tuple(self._units.get(shard_directory(shard_name), ()))

    def is_complete(self, shard_name: str) -> bool:
        """Whether every image of the shard has its row."""
        gaps = self.gaps(shard_name)
        return not gaps

    def gaps(self, shard_name: str) -> list[tuple[int, int | None]]:
        """What is missing: [first, end) index ranges, the last one open (``end`` None) where the end is unknown."""
        gaps: list[tuple[int, int | None]] = []
        position = 0
        for unit_range in self._units.get(shard_directory(shard_name), ()):
            if unit_range.first > position:
                gaps.append((position, unit_range.first))
            position = unit_range.end
            if unit_range.is_last:
                return gaps
        gaps.append((position, None))
        return gaps

    def num_images(self, shard_name: str) -> int:
        """Images of the shard that have their row."""
        return sum(unit_range.count for unit_range in self._units.get(shard_directory(shard_name), ()))

    def total_images(self) -> int:
        """Images of all shards that have their row."""
        return sum(unit_range.count for ranges in self._units.values() for unit_range in ranges)

    def total_units(self) -> int:
        """Committed units of all shards."""
        return sum(len(ranges) for ranges in self._units.values())

    def iter_units(self) -> Iterator[UnitFile]:
        """Every committed unit, by shard directory and position."""
        for shard_dir in sorted(self._units):
            for unit_range in self._units[shard_dir]:
                yield UnitFile(self.layer, shard_dir, unit_range)


def _refuse_overlap(layer: str, shard_dir: str, ranges: list[UnitRange]) -> None:
    """Unit boundaries depend on the shard alone, so an overlap means that files of two runs were mixed."""
    for before, after in itertools.pairwise(ranges):
        if after.first < before.end or before.is_last:
            raise RunMismatchError(
                f"labels/{layer}/{shard_dir} holds units that overlap: images {before.first}-{before.end - 1} and "
                f"{after.first}-{after.end - 1}. Unit boundaries never change within a run, so files of another run "
                "were put here. Move the foreign files away, or label into a new run directory."
            )
