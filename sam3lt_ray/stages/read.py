"""Stage 1, read: from a shard and what is already committed of it to the images that are still to be labeled."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.labels.footer import read_keys, read_resume_offset
from sam3lt_ray.records import ReadRange, Shard, Unit
from sam3lt_ray.storage.ledger import UnitFile, unit_path
from sam3lt_ray.storage.store import RunStore


@dataclass(frozen=True, slots=True)
class Retry:
    """Rows of a committed unit that are to be made again.

    Attributes:
        unit: The unit, as committed, with the retries it has had.
        indexes: Positions in the shard of the images.
    """

    unit: UnitFile
    indexes: frozenset[int]

    @property
    def path(self) -> str:
        """Where the new rows go."""
        return self.unit.retry_path(self.unit.num_retries + 1)


@dataclass(frozen=True, slots=True)
class ShardWork:
    """What is to do on one shard: gaps to fill or rows to make again, in one layer.

    Attributes:
        shard: The shard.
        layer: Where the labels go.
        gaps: [first, end) index ranges without labels in this layer; ``end`` None: to the shard's end.
        committed: Units of any layer that stand before the last gap, in order, none over another: they know where the
            next unit begins, and which keys there were. Not needed where reading begins at the shard's beginning.
        retries: Units with rows to make again, in order.
    """

    shard: Shard
    layer: str
    gaps: tuple[tuple[int, int | None], ...] = ()
    committed: tuple[UnitFile, ...] = ()
    retries: tuple[Retry, ...] = ()


@dataclass(frozen=True, slots=True)
class MissingUnitReader:
    """Reads what is to do on shards; a plain callable that pickles.

    A shard is entered where its first missing unit begins: the committed unit before the gap keeps in its footer the
    byte offset at which it ended, so nothing in front of the gap is read again.
    """

    store: RunStore
    settings: InputSettings
    storage: StorageSettings

    def __call__(self, work: ShardWork) -> Iterator[Unit]:
        """Yield units in order, streaming; their ``path`` says where their labels go.

        Raises:
            StorageError: The shard cannot be read (after retries); its remaining units stay missing.
            RunMismatchError: A committed unit that stands before the gap is damaged.
        """
        if work.retries:
            yield from self._read_retries(work)
            return
        for unit in self._read(work, work.gaps):
            yield replace(unit, path=unit_path(work.layer, work.shard.name, unit.range, work.shard.edition))

    def _read_retries(self, work: ShardWork) -> Iterator[Unit]:
        """One unit for each that is tried again, with those images only."""
        remaining = list(work.retries)
        images, read_s = [], 0.0
        for unit in self._read(work, [(retry.unit.range.first, retry.unit.range.end) for retry in work.retries]):
            read_s += unit.read_s
            images += [image for image in unit.images if image.index in remaining[0].indexes]
            if unit.range.end >= remaining[0].unit.range.end:
                retry = remaining.pop(0)
                yield Unit(unit.shard, retry.unit.range, tuple(images), path=retry.path, read_s=read_s)
                images, read_s = [], 0.0

    def _read(self, work: ShardWork, gaps: Iterable[tuple[int, int | None]]) -> Iterator[Unit]:
        ranges = [ReadRange(first, end, self._offset_at(work, first)) for first, end in gaps]
        read_here: list[str] = []  # keys of earlier gaps, which no committed unit knows yet

        def seen_keys(before: int) -> Iterable[str]:
            yield from self._committed_keys(work, before)
            yield from read_here

        # Where something else in front of a gap is missing, its keys are not known: then all before the gap is read.
        are_keys_known = all(_is_known(work, first, ranges) for first, _ in gaps)
        start = time.perf_counter()
        for unit in read_units(work.shard, ranges, self.settings, self.storage, seen_keys if are_keys_known else None):
            if len(ranges) > 1:
                read_here.extend(image.key for image in unit.images)
            yield replace(unit, read_s=time.perf_counter() - start)
            start = time.perf_counter()

    def _offset_at(self, work: ShardWork, first: int) -> int | None:
        before = next((unit for unit in work.committed if unit.range.end == first), None)
        return None if before is None or first == 0 else read_resume_offset(self.store, before.path)

    def _committed_keys(self, work: ShardWork, before: int) -> Iterable[str]:
        """Keys of images that have their row and stand before an index: one that comes again is a repetition."""
        for unit in work.committed:
            if unit.range.end <= before:
                yield from read_keys(self.store, unit.path)


def _is_known(work: ShardWork, first: int, ranges: Iterable[ReadRange]) -> bool:
    """Whether every image in front of an index is committed or read here."""
    spans = [(unit.range.first, unit.range.end) for unit in work.committed]
    spans += [(read.first, read.end) for read in ranges if read.end is not None and read.end <= first]
    position = 0
    for start, end in sorted(spans):
        if start > position:
            break
        position = max(position, end)
    return position >= first
