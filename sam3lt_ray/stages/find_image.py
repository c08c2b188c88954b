"""Getting the bytes of single images of a finished run back from the input: for reports, not for labeling."""

from __future__ import annotations

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import Sam3ltError
from sam3lt_ray.labels.reading import LabeledImage
from sam3lt_ray.records import Unit, UnitRange
from sam3lt_ray.stages.read import MissingUnitReader, ShardWork
from sam3lt_ray.storage.ledger import LABELS_PREFIX, Ledger
from sam3lt_ray.storage.snapshot import read_snapshot
from sam3lt_ray.storage.store import RunStore


class ImageFinder:
    """Call it with a labeled image, get the image file's bytes.

    Reads the unit that holds the image, from the byte at which it begins, and keeps the last unit: images asked for in
    the order of the run cost each unit once.

    Args:
        store: The run directory.
        layer: Any layer that holds the images.
        settings: How the input was read.
        storage: How the input is reached.
    """

    def __init__(self, store: RunStore, layer: str, settings: InputSettings, storage: StorageSettings) -> None:
        self._read = MissingUnitReader(store, layer, settings, storage)
        self._shards = {shard.name: shard for shard in read_snapshot(store)}
        self._ledger = Ledger.from_paths(layer, (item.path for item in store.list(f"{LABELS_PREFIX}/{layer}")))
        self._unit: Unit | None = None

    def __call__(self, image: LabeledImage) -> bytes | None:
        """The image file's content; None when the input no longer delivers it."""
        if image.shard not in self._shards:
            return None
        units = self._ledger.units(image.shard)
        holder = next((unit for unit in units if unit.first <= image.index < unit.end), None)
        if holder is None:
            return None
        try:
            unit = self._read_unit(image.shard, units, holder)
        except Sam3ltError:
            return None
        found = next((item for item in unit.images if item.index == image.index), None) if unit else None
        return found.data if found is not None and found.data else None

    def _read_unit(self, shard_name: str, units: tuple[UnitRange, ...], holder: UnitRange) -> Unit | None:
        if self._unit is None or (self._unit.shard, self._unit.range) != (shard_name, holder):
            before = tuple(unit for unit in units if unit.end <= holder.first)
            work = ShardWork(self._shards[shard_name], before, ((holder.first, holder.end),))
            self._unit = next(self._read(work), None)
        return self._unit
