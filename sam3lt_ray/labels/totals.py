"""The totals of a run, kept in ``totals.parquet`` so that a start does not read a footer of every finished unit.

The file is a cache and never the truth: each of its sums says which unit files it adds up, and counts only as long as
all of these are there unchanged. What no valid sum covers is read from the units' own footers.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sam3lt_ray.labels.footer import read_counts
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.storage.store import RunStore, StoredFile

TOTALS_PATH: Final = "totals.parquet"
# Units in one sum: what is read anew when one of them changed, and what a killed driver leaves to be read.
UNITS_PER_SUM: Final = 10_000
_FIELDS: Final[list[pa.Field[Any]]] = [pa.field("units", pa.large_binary()), pa.field("counts", pa.string())]
_SCHEMA: Final = pa.schema(_FIELDS)

UnitIds = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Sum:
    """Counts of some units together.

    Attributes:
        ids: Which units, by hashes of their names and sizes; sorted.
        counts: What they add up to.
    """

    ids: UnitIds
    counts: UnitCounts


@dataclass(slots=True)
class RunTotals:
    """Sums over the units of a run.

    A unit is known by its name and size. That is enough, because a unit is made again only where a listing has shown
    that it is gone: :meth:`forget_changed` must see every listing that units are labeled by, before they are.

    Attributes:
        store: The run directory.
    """

    store: RunStore
    _sums: list[_Sum] = field(default_factory=list)
    _new: dict[int, UnitCounts] = field(default_factory=dict)

    @classmethod
    def load(cls, store: RunStore) -> RunTotals:
        """What earlier starts kept; nothing where the file is missing or makes no sense."""
        try:
            rows = pq.read_table(io.BytesIO(store.read(TOTALS_PATH)), schema=_SCHEMA).to_pylist()
            sums = [
                _Sum(np.frombuffer(row["units"], dtype="<u8"), UnitCounts.from_json(json.loads(row["counts"])))
                for row in rows
            ]
        except (FileNotFoundError, pa.ArrowException, ValueError, KeyError, TypeError):
            return cls(store)
        ids = _joined([one.ids for one in sums])
        return cls(store, sums if len(np.unique(ids)) == len(ids) else [])

    def forget_changed(self, files: Sequence[StoredFile]) -> None:
        """Drop sums over units that are not there any more; the file loses them before anything is labeled anew.

        Args:
            files: All committed units, from a fresh listing.
        """
        if self._drop_stale(_ids(files)):
            self._save()

    def add(self, path: str, size_bytes: int, counts: UnitCounts) -> None:
        """Take in a unit that was committed just now; saved in portions."""
        self._new[_id(path, size_bytes)] = counts
        if len(self._new) >= UNITS_PER_SUM:
            self._take_in_new()
            self._save()

    def count(self, files: Sequence[StoredFile], *, max_reads: int | None = None, save: bool) -> UnitCounts | None:
        """Counts of the whole run.

        Args:
            files: All committed units, from a fresh listing.
            max_reads: Footers to read at most; the rest is left to the next call.
            save: Keep what was found; not for readers, who may not be allowed to write.

        Returns:
            None when there was more to read than ``max_reads``.
        """
        ids = _ids(files)
        self._take_in_new()
        self._drop_stale(ids)
        unknown = np.flatnonzero(~_are_in(ids, np.sort(_joined([one.ids for one in self._sums])))).tolist()
        if len(np.unique(ids)) < len(ids):  # as good as never; then nothing is believed
            self._sums, unknown = [], list(range(len(files)))
        chosen = unknown if max_reads is None else unknown[:max_reads]
        for start in range(0, len(chosen), UNITS_PER_SUM):
            some = chosen[start : start + UNITS_PER_SUM]
            counts = read_counts(self.store, [files[position].path for position in some])
            self._sums.append(_Sum(np.sort(ids[some]), _added(counts)))
        if save:
            self._save()
        return _added(one.counts for one in self._sums) if len(chosen) == len(unknown) else None

    def _take_in_new(self) -> None:
        """Make a sum of the units that this start committed."""
        if not self._new:
            return
        ids = np.array(sorted(self._new), dtype=np.uint64)
        # Made anew by this very start: whatever was said about them before is of another file.
        self._sums = [one for one in self._sums if not _are_in(ids, one.ids).any()]
        self._sums.append(_Sum(ids, _added(self._new.values())))
        self._new = {}

    def _drop_stale(self, present: UnitIds) -> bool:
        before = len(self._sums)
        present = np.sort(present)
        self._sums = [one for one in self._sums if _are_in(one.ids, present).all()]
        return len(self._sums) < before

    def _save(self) -> None:
        self._sums = _merge_small(self._sums)
        columns: list[pa.Array[Any]] = [
            pa.array([one.ids.astype("<u8").tobytes() for one in self._sums], pa.large_binary()),
            pa.array([json.dumps(one.counts.to_json()) for one in self._sums], pa.string()),
        ]
        sink = pa.BufferOutputStream()
        # Hashes do not compress.
        pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), sink, compression="none", write_statistics=False)
        self.store.replace(TOTALS_PATH, sink.getvalue().to_pybytes())


def _ids(files: Sequence[StoredFile]) -> UnitIds:
    return np.fromiter((_id(file.path, file.size_bytes) for file in files), np.uint64, len(files))


def _id(path: str, size_bytes: int) -> int:
    digest = hashlib.blake2b(f"{path}\0{size_bytes}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _are_in(ids: UnitIds, sorted_ids: UnitIds) -> npt.NDArray[np.bool_]:
    """Like np.isin, which would sort millions of ids again for each sum."""
    if not len(sorted_ids):
        return np.zeros(len(ids), dtype=np.bool_)
    places = np.searchsorted(sorted_ids, ids)
    found: npt.NDArray[np.bool_] = sorted_ids[np.minimum(places, len(sorted_ids) - 1)] == ids
    return found


def _joined(parts: Sequence[UnitIds]) -> UnitIds:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


def _added(parts: Iterable[UnitCounts]) -> UnitCounts:
    images, errors, instances = 0, Counter[str](), Counter[int]()
    for counts in parts:
        images += counts.images
        errors.update(counts.errors)
        instances.update(counts.instances)
    return UnitCounts(images, dict(errors), dict(instances))


def _merge_small(sums: Sequence[_Sum]) -> list[_Sum]:
    """Nightly starts with some units each would leave many small sums."""
    merged: list[_Sum] = []
    for one in sorted(sums, key=lambda one: len(one.ids)):
        if merged and len(merged[-1].ids) + len(one.ids) <= UNITS_PER_SUM:
            merged[-1] = _Sum(np.sort(_joined([merged[-1].ids, one.ids])), merged[-1].counts + one.counts)
        else:
            merged.append(one)
    return merged
