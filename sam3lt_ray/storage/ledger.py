"""The ledger: which units are committed, read from the names of the files under ``labels/`` and from nothing else.

A unit is committed if and only if its file exists. The name says which images it holds and whether the shard ends with
it, so that planning opens no finished file, whatever the number of images. Beside a unit's file there may be retries of
it ("....retry-001.parquet"), each of which replaces the rows that it holds.
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
    r"^labels/(?P<layer>[^/]+)/(?P<shard>[^/]+)/(?P<first>\d{10})-(?P<count>\d{7})(?P<last>\.last)?"
    r"(?:\.retry-(?P<retry>\d{3,}))?\.parquet$"
)
_SLUG_LENGTH: Final = 80
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_EDITION: Final = re.compile(r"(?<=-[0-9a-f]{12})\.[0-9a-f]{8}$")


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One committed unit as its file name tells it.

    Attributes:
        layer: Layer it belongs to.
        shard_dir: Directory of its shard.
        range: Which images it holds.
        num_retries: Retries of it that are committed; as :func:`parse_unit_path` gives it, the number of this retry,
            and 0 for the unit itself.
    """

    layer: str
    shard_dir: str
    range: UnitRange
    num_retries: int = 0

    @property
    def path(self) -> str:
        """Path of the unit's file inside the run directory."""
        return f"{self._stem}.parquet"

    def retry_path(self, number: int) -> str:
        """Path of the file with the rows of one retry, numbered from 1."""
        return f"{self._stem}.retry-{number:03d}.parquet"

    @property
    def paths(self) -> list[str]:
        """The unit's file and its retries; later ones replace rows of earlier ones."""
        return [self.path, *(self.retry_path(number) for number in range(1, self.num_retries + 1))]

    @property
    def _stem(self) -> str:
        last = ".last" if self.range.is_last else ""
        return f"{LABELS_PREFIX}/{self.layer}/{self.shard_dir}/{self.range.first:010d}-{self.range.count:07d}{last}"


def shard_directory(shard_name: str, edition: str = "") -> str:
    """Directory name for a shard: readable, one path segment on every store, and different for different names.

    The readable part is lossy (``../``, slashes, NUL and non-ASCII text become ``_``); the hash behind it is what
    tells names apart, also on file systems that fold case or normalise Unicode.

    Args:
        shard_name: Name of the shard.
        edition: See :attr:`sam3lt_ray.records.Shard.edition`.
    """
    slug = _UNSAFE.sub("_", shard_name)[-_SLUG_LENGTH:].lstrip(".")
    digest = hashlib.sha256(shard_name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{slug}-{digest}.{edition}" if edition else f"{slug}-{digest}"


def first_edition(shard_dir: str) -> str:
    """The directory that the shard had before its content changed: ``shard_dir`` without its edition."""
    match = _EDITION.search(shard_dir)
    return shard_dir if match is None else shard_dir[: match.start()]


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


def unit_path(layer: str, shard_name: str, unit_range: UnitRange, edition: str = "") -> str:
    """Path of a unit's file inside the run directory."""
    return UnitFile(layer, shard_directory(shard_name, edition), unit_range).path


def parse_unit_path(path: str) -> UnitFile | None:
    """The unit that a path names; None when the path is not a unit's (a stray file somebody put there)."""
    match = _UNIT_PATH.match(path)
    if match is None:
        return None
    unit_range = UnitRange(int(match["first"]), int(match["count"]), match["last"] is not None)
    return UnitFile(match["layer"], match["shard"], unit_range, int(match["retry"] or 0))


def layer_of(path: str) -> str:
    """The layer in a path that is known to be a unit's; for millions of them, which take long to parse."""
    return path.split("/", 2)[1]


def shard_dir_of(path: str) -> str:
    """The directory of the shard in such a path."""
    return path.split("/", 3)[2]


def is_retry(path: str) -> bool:
    """Whether a path is that of rows which were made again, not of a unit's own file."""
    unit = parse_unit_path(path)
    return unit is not None and unit.num_retries > 0


@dataclass(slots=True)
class Ledger:
    """Committed units of one layer, by shard directory (:func:`shard_directory`)."""

    layer: str
    _units: dict[str, list[UnitRange]] = field(default_factory=dict)
    _num_retries: dict[tuple[str, UnitRange], int] = field(default_factory=dict)

    @classmethod
    def from_paths(cls, layer: str, paths: Iterable[str]) -> Ledger:
        """Build from a listing of the run directory; paths of other layers and stray files are passed over."""
        ledger = cls(layer)
        # Most shards are cut alike: one range for all their first units, one for all their second ones.
        same: dict[UnitRange, UnitRange] = {}
        for path in paths:
            unit = parse_unit_path(path)
            if unit is None or unit.layer != layer:
                continue
            if unit.num_retries:
                key = unit.shard_dir, unit.range
                ledger._num_retries[key] = max(unit.num_retries, ledger._num_retries.get(key, 0))
            else:
                ledger._units.setdefault(unit.shard_dir, []).append(same.setdefault(unit.range, unit.range))
        for shard_dir, ranges in ledger._units.items():
            ranges.sort(key=lambda r: (r.first, r.count))
            _refuse_overlap(layer, shard_dir, ranges)
        return ledger

    @property
    def num_units(self) -> int:
        """Committed units of all shards."""
        return sum(map(len, self._units.values()))

    def units(self, shard_dir: str) -> tuple[UnitRange, ...]:
        """Committed units of a shard, in order."""
        return tuple(self._units.get(shard_dir, ()))

    def unit_files(self, shard_dir: str) -> Iterator[UnitFile]:
        """The same with their retries."""
        for unit_range in self._units.get(shard_dir, ()):
            num_retries = self._num_retries.get((shard_dir, unit_range), 0)
            yield UnitFile(self.layer, shard_dir, unit_range, num_retries)

    def is_complete(self, shard_dir: str) -> bool:
        """Whether every image of the shard has its row."""
        return not self.gaps(shard_dir)

    def gaps(self, shard_dir: str) -> list[tuple[int, int | None]]:
        """What is missing: [first, end) index ranges, the last one open (``end`` None) where the end is unknown."""
        gaps: list[tuple[int, int | None]] = []
        position = 0
        for unit_range in self._units.get(shard_dir, ()):
            if unit_range.first > position:
                gaps.append((position, unit_range.first))
            position = unit_range.end
            if unit_range.is_last:
                return gaps
        gaps.append((position, None))
        return gaps

    def shard_dirs(self) -> Iterable[str]:
        """Directories with at least one unit."""
        return self._units.keys()


def _refuse_overlap(layer: str, shard_dir: str, ranges: list[UnitRange]) -> None:
    """Unit boundaries depend on the shard alone, so an overlap means that files of two runs were mixed."""
    for before, after in itertools.pairwise(ranges):
        if after.first < before.end or before.is_last:
            raise RunMismatchError(
                f"labels/{layer}/{shard_dir} holds units that overlap: images {before.first}-{before.end - 1} and "
                f"{after.first}-{after.end - 1}. Unit boundaries never change within a run, so files of another run "
                "were put here. Move the foreign files away, or label into a new run directory."
            )
