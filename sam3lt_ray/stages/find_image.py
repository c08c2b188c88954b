"""Getting the bytes of single images of a finished run back from the input: for reports, not for labeling."""

from __future__ import annotations

from collections.abc import Sequence

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import Sam3ltError
from sam3lt_ray.labels.reading import LabeledImage
from sam3lt_ray.records import Shard, Unit
from sam3lt_ray.stages.read import MissingUnitReader, ShardWork
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.ledger import UnitFile
from sam3lt_ray.storage.snapshot import read_snapshot
from sam3lt_ray.storage.store import RunStore


class ImageFinder:
    """Call it with a labeled image, get the image file's bytes.

    Reads the unit that holds the image, from the byte at which it begins, and keeps the last unit: images asked for in
    the order of the run cost each unit once.

    Args:
        store: The run directory.
        coverage: What is committed of the run.
        settings: How the input was read.
        storage: How the input is reached.
    """

    def __init__(self, store: RunStore, coverage: Coverage, settings: InputSettings, storage: StorageSettings) -> None:
        self._read = MissingUnitReader(store, settings, storage)
        self._shards = {shard.name: shard for shard in read_snapshot(store)}
        self._coverage = coverage
        self._unit: Unit | None = None

    def __call__(self, image: LabeledImage) -> bytes | None:
        """The image file's content; None when the input no longer delivers it."""
        shard = self._shards.get(image.shard)
        if shard is None:
            return None
        units = self._coverage.units(shard)
        holder = next((unit for unit in units if unit.range.first <= image.index < unit.range.end), None)
        if holder is None:
            return None
        try:
            unit = self._read_unit(shard, units, holder)
        except Sam3ltError:
            return None
        found = next((item for item in unit.images if item.index == image.index), None) if unit else None
        return found.data if found is not None and found.data else None

    def _read_unit(self, shard: Shard, units: Sequence[UnitFile], holder: UnitFile) -> Unit | None:
        if self._unit is None or (self._unit.shard, self._unit.range) != (shard.name, holder.range):
            before = tuple(unit for unit in units if unit.range.end <= holder.range.first)
            work = ShardWork(shard, holder.layer, ((holder.range.first, holder.range.end),), before)
            self._unit = next(self._read(work), None)
        return self._unit
