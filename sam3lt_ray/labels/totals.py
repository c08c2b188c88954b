"""What is known of a run's units without opening them, kept in ``totals.parquet`` from start to start.

The file is a cache and never the truth: each of its sums says which files it adds up, and counts only as long as all of
these are there. What no valid sum covers is read from the files' own footers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.storage.ledger import parse_unit_path
from sam3lt_ray.storage.parquet_files import encode_parquet, read_whole
from sam3lt_ray.storage.store import RunStore

TOTALS_PATH: Final = "totals.parquet"
# Files in one sum: what is read anew when one of them is gone, and what a killed driver leaves to be read.
FILES_PER_SUM: Final = 10_000
_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("layer", pa.string()),
    pa.field("files", pa.large_binary()),
    pa.field("counts", pa.string()),
]
_SCHEMA: Final = pa.schema(_FIELDS)

FileIds = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Sum:
    """Counts of some files of one layer.

    Attributes:
        layer: The layer.
        ids: Which files, by hashes of their names; sorted.
        errors: Errors by kind of those among them that have any, by id.
        instances: Instances by label id of all of them together.
    """

    layer: str
    ids: FileIds
    errors: Mapping[int, Mapping[str, int]]
    instances: Mapping[int, int]


@dataclass(slots=True)
class RunTotals:
    """Counts of unit and retry files.

    A file is known by its name. That is enough, because one is made again only where a listing has shown that it is
    gone: :meth:`forget_missing` must see every listing that units are labeled by, before they are.

    Attributes:
        store: The run directory.
        is_kept: False for readers, who may not be allowed to write: nothing is saved.
    """

    store: RunStore
    is_kept: bool = True
    _sums: list[_Sum] = field(default_factory=list)
    _new: dict[str, dict[int, UnitCounts]] = field(default_factory=dict)

    @classmethod
    def load(cls, store: RunStore, *, is_kept: bool = True) -> RunTotals:
        """What earlier starts kept; nothing where the file is missing or makes no sense."""
        try:
            rows = read_whole(store.read(TOTALS_PATH)).to_pylist()
            sums = [_decode(row) for row in rows]
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError):
            return cls(store, is_kept)
        ids = _joined([one.ids for one in sums])
        return cls(store, is_kept, sums if len(np.unique(ids)) == len(ids) else [])

    def forget_missing(self, paths: Iterable[str]) -> FileIds:
        """Drop sums over files that are not there any more; what is kept loses them before anything is labeled anew.

        Args:
            paths: All committed files, from a fresh listing; none of them is kept, for there may be millions.

        Returns:
            Their ids, in the same order.
        """
        self._take_in_new()
        before = len(self._sums)
        ids = np.fromiter(map(file_id, paths), np.uint64)
        present = np.sort(ids)
        self._sums = [one for one in self._sums if _are_in(one.ids, present).all()]
        if len(self._sums) < before:
            self.save()
        return ids

    def add(self, path: str, counts: UnitCounts) -> None:
        """Take in a file that has just been committed or read; kept in portions."""
        unit = parse_unit_path(path)
        assert unit is not None
        of_layer = self._new.setdefault(unit.layer, {})
        of_layer[file_id(path)] = counts
        if len(of_layer) >= FILES_PER_SUM:
            self.save()

    def are_known(self, ids: FileIds) -> npt.NDArray[np.bool_]:
        """Of which of some files the counts are known; the others have to be opened."""
        self._take_in_new()
        return _are_in(ids, np.sort(_joined([one.ids for one in self._sums])))

    def have_errors(self, ids: FileIds) -> npt.NDArray[np.bool_]:
        """Which of some files are known to have error rows: those of which :meth:`errors` says something."""
        self._take_in_new()
        return _are_in(ids, np.array(sorted(self.errors()), dtype=np.uint64))

    def errors(self) -> Mapping[int, Mapping[str, int]]:
        """Errors by kind of all files that have any, by :func:`file_id`."""
        self._take_in_new()
        return {file: kinds for one in self._sums for file, kinds in one.errors.items()}

    def instances(self) -> Mapping[str, Mapping[int, int]]:
        """Instances by label id, by layer."""
        self._take_in_new()
        found: dict[str, Counter[int]] = {}
        for one in self._sums:
            found.setdefault(one.layer, Counter()).update(one.instances)
        return found

    def save(self) -> None:
        """Keep what is known for the next start."""
        self._take_in_new()
        if not self.is_kept:
            return
        self._sums = _merge_small(self._sums)
        columns: list[pa.Array[Any]] = [
            pa.array([one.layer for one in self._sums], pa.string()),
            pa.array([one.ids.astype("<u8").tobytes() for one in self._sums], pa.large_binary()),
            pa.array([_encode_counts(one) for one in self._sums], pa.string()),
        ]
        table = pa.Table.from_arrays(columns, schema=_SCHEMA)
        # Hashes do not compress.
        self.store.replace(TOTALS_PATH, encode_parquet(table, compression="none", write_statistics=False))

    def _take_in_new(self) -> None:
        """Make sums of the files that this start committed or read."""
        for layer, counts in self._new.items():
            ids = np.array(sorted(counts), dtype=np.uint64)
            # Made anew by this very start: whatever was said about them before is of another file.
            self._sums = [one for one in self._sums if not _are_in(ids, one.ids).any()]
            errors = {file: of_file.errors for file, of_file in counts.items() if of_file.errors}
            instances: Counter[int] = Counter()
            for of_file in counts.values():
                instances.update(of_file.instances)
            self._sums.append(_Sum(layer, ids, errors, instances))
        self._new = {}


def file_id(path: str) -> int:
    """The number by which a file is known here."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _are_in(ids: FileIds, sorted_ids: FileIds) -> npt.NDArray[np.bool_]:
    """Like np.isin, which would sort millions of ids again for each sum."""
    if not len(sorted_ids):
        return np.zeros(len(ids), dtype=np.bool_)
    places = np.searchsorted(sorted_ids, ids)
    found: npt.NDArray[np.bool_] = sorted_ids[np.minimum(places, len(sorted_ids) - 1)] == ids
    return found


def _joined(parts: Sequence[FileIds]) -> FileIds:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


def _encode_counts(one: _Sum) -> str:
    return json.dumps({"errors": one.errors, "instances": one.instances})


def _decode(row: Mapping[str, Any]) -> _Sum:
    counts = json.loads(row["counts"])
    return _Sum(
        row["layer"],
        np.frombuffer(row["files"], dtype="<u8"),
        {int(file): kinds for file, kinds in counts["errors"].items()},
        {int(label_id): count for label_id, count in counts["instances"].items()},
    )


def _merge_small(sums: Sequence[_Sum]) -> list[_Sum]:
    """Nightly starts with some units each would leave many small sums."""
    merged: list[_Sum] = []
    for one in sorted(sums, key=lambda one: (one.layer, len(one.ids))):
        last = merged[-1] if merged else None
        if last is not None and last.layer == one.layer and len(last.ids) + len(one.ids) <= FILES_PER_SUM:
            ids = np.sort(_joined([last.ids, one.ids]))
            instances = Counter(last.instances)
            instances.update(one.instances)
            merged[-1] = _Sum(one.layer, ids, {**last.errors, **one.errors}, instances)
        else:
            merged.append(one)
    return merged
