"""Stage 1, read: from a shard and what is already committed of it to the units that are missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.labels.footer import read_resume_offset
from sam3lt_ray.records import ReadRange, Shard, Unit, UnitRange
from sam3lt_ray.storage.ledger import unit_path
from sam3lt_ray.storage.store import RunStore


@dataclass(frozen=True, slots=True)
class ShardWork:
    """What is to do on one shard.

    Attributes:
        shard: The shard.
        committed: Units of it that have their file, in order.
        gaps: Missing [first, end) index ranges; ``end`` None: to the shard's end.
    """

    shard: Shard
    committed: tuple[UnitRange, ...]
    gaps: tuple[tuple[int, int | None], ...]


@dataclass(frozen=True, slots=True)
class MissingUnitReader:
    """Reads the missing units of shards; a plain callable that pickles.

    A shard is entered where its first missing unit begins: the committed unit before the gap keeps in its footer the
    byte offset at which it ended, so nothing in front of the gap is read again.
    """

    store: RunStore
    layer: str
    settings: InputSettings
    storage: StorageSettings

    def __call__(self, work: ShardWork) -> Iterator[Unit]:
        """Yield the missing units of one shard in order, streaming.

        Raises:
            StorageError: The shard cannot be read (after retries); its remaining units stay missing.
        """
        ranges = [ReadRange(first, end, self._offset_at(work, first)) for first, end in work.gaps]
        read_here: list[str] = []  # keys of earlier gaps, which no committed unit knows yet

        def seen_keys(before: int) -> Iterable[str]:
            yield from self._committed_keys(work, before)
            yield from read_here

        start = time.perf_counter()
        for unit in read_units(work.shard, ranges, self.settings, self.storage, seen_keys):
            if len(ranges) > 1:
                read_here.extend(image.key for image in unit.images)
            yield replace(unit, read_s=time.perf_counter() - start)
            start = time.perf_counter()

    def _offset_at(self, work: ShardWork, first: int) -> int | None:
        if first == 0:
            return None
        before = next(unit_range for unit_range in work.committed if unit_range.end == first)
        return read_resume_offset(self.store, unit_path(self.layer, work.shard.name, before))

    def _committed_keys(self, work: ShardWork, before: int) -> Iterable[str]:
        """Keys of images that have their row and stand before an index: one that comes again is a repetition."""
        for unit_range in work.committed:
            if unit_range.end <= before:
                with self.store.open(unit_path(self.layer, work.shard.name, unit_range)) as file:
                    keys: list[str] = pq.read_table(file, columns=["key"])["key"].to_pylist()  # type: ignore[assignment]
                yield from keys
