"""Reading a run back: one value per input image, whatever shards, units and layers it was labeled in.

Memory is bounded by one unit's file per layer, so a run of any size can be exported, evaluated and reported.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.labels.columns import LabeledImage, images_of_table
from sam3lt_ray.storage.ledger import LABELS_PREFIX, Ledger, UnitFile, parse_unit_path
from sam3lt_ray.storage.run_directory import VOCABULARY_PATH, read_json, read_run
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Vocabulary

__all__ = ["LabeledImage", "RunReader"]


@dataclass(frozen=True)
class RunReader:
    """Reads the committed labels of a run; a run that is still being labeled reads as far as it is.

    Attributes:
        store: The run directory.
    """

    store: RunStore

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json.

        Raises:
            InputError: There is no run in this directory.
        """
        return read_run(self.store)

    def vocabulary(self) -> Vocabulary:
        """The run's labels with their ids, in the order of vocabulary.json.

        Raises:
            InputError: The run has no vocabulary.json.
        """
        value = read_json(self.store, VOCABULARY_PATH)
        if value is None:
            raise InputError(
                f"{self.store.uri} has no {VOCABULARY_PATH}, so its labels have no names. "
                "`sam3lt label` writes it before the first image; start it again."
            )
        return Vocabulary.from_json(value)

    def default_score_threshold(self) -> float:
        """Scores under it are not exported, for labels without a threshold of their own (from the run's config)."""
        labeling = self.run.get("config", {}).get("labeling", {})
        return float(labeling.get("score_threshold", 0.5))

    def thresholds(self, score_threshold: float | None = None) -> dict[int, float]:
        """Score threshold of every label: its own, else ``score_threshold``, else the run's default."""
        default = self.default_score_threshold() if score_threshold is None else score_threshold
        return {label.id: default if label.threshold is None else label.threshold for label in self.vocabulary().labels}

    def unit_files(self) -> list[UnitFile]:
        """Every committed unit, by shard directory, position and layer.

        Raises:
            RunMismatchError: Units of one layer overlap.
        """
        paths = [file.path for file in self.store.list(f"{LABELS_PREFIX}/")]
        layers = sorted({unit.layer for path in paths if (unit := parse_unit_path(path)) is not None})
        units = [unit for layer in layers for unit in Ledger.from_paths(layer, paths).iter_units()]
        return sorted(units, key=lambda unit: (unit.shard_dir, unit.range.first, unit.layer))

    def read_table(self, unit: UnitFile, columns: Sequence[str] | None = None) -> pa.Table:
        """One unit's rows with the file's metadata.

        Args:
            unit: Which unit.
            columns: Names of the columns to read ("instances.list.element.score" for a part); None: all.
        """
        with self.store.open(unit.path) as file:
            try:
                return pq.ParquetFile(file).read(columns=None if columns is None else list(columns))
            except pa.ArrowInvalid as error:
                raise RunMismatchError(
                    f"{self.store.location(unit.path)} is not a readable Parquet file ({error}). Units are written "
                    "whole or not at all, so it was damaged later. Delete it and run `sam3lt label` again: only this "
                    "unit is labeled anew."
                ) from error

    def iter_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One table per unit file (LABEL_SCHEMA, or the named columns of it); layers are not joined."""
        for unit in self.unit_files():
            yield self.read_table(unit, columns)

    def iter_images(self) -> Iterator[LabeledImage]:
        """Every image once, by shard and position, with the labels of all layers together.

        An image that failed in any layer has status "error" and the reason of the first such layer; its labels from
        the other layers are kept.
        """
        for _, units in groupby(self.unit_files(), key=attrgetter("shard_dir")):
            yield from self._iter_shard(list(units))

    def _iter_shard(self, units: Sequence[UnitFile]) -> Iterator[LabeledImage]:
        layers = sorted({unit.layer for unit in units})
        streams = [self._iter_layer([unit for unit in units if unit.layer == layer]) for layer in layers]
        if len(streams) == 1:
            yield from streams[0]
            return
        # Rows of a layer are in order of index, so merging the layers needs one unit of each in memory.
        for _, same_image in groupby(heapq.merge(*streams, key=attrgetter("index")), key=attrgetter("index")):
            yield join_layers(list(same_image))

    def _iter_layer(self, units: Sequence[UnitFile]) -> Iterator[LabeledImage]:
        for unit in units:
            yield from images_of_table(self.read_table(unit))


def join_layers(layers: Sequence[LabeledImage]) -> LabeledImage:
    """One image from what each layer says about it.

    Raises:
        RunMismatchError: The layers saw different images at the same position of the shard.
    """
    first = layers[0]
    for other in layers[1:]:
        if other.image_id != first.image_id:
            raise RunMismatchError(
                f"Image {first.index} of shard {first.shard!r} is {first.key!r} in one layer and {other.key!r} in "
                "another: the shard changed between two runs. Label it into a new run directory."
            )
    failed = next((layer for layer in layers if layer.status == "error"), None)
    measured = next((layer for layer in layers if layer.width is not None), first)
    return LabeledImage(
        image_id=first.image_id,
        shard=first.shard,
        index=first.index,
        key=first.key,
        width=measured.width,
        height=measured.height,
        status="ok" if failed is None else "error",
        error_kind=None if failed is None else failed.error_kind,
        error_message=None if failed is None else failed.error_message,
        presence={label_id: value for layer in layers for label_id, value in layer.presence.items()},
        saturated=tuple(label_id for layer in layers for label_id in layer.saturated),
        instances=tuple(instance for layer in layers for instance in layer.instances),
        side_files=first.side_files,
    )
