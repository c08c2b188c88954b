"""Reading a run back: one value per input image, whatever shards, units, layers and retries it was labeled in.

Memory is bounded by one unit's file per layer, so a run of any size can be exported, evaluated and reported.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.labels.columns import LabeledImage, images_of_table
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.damage import naming_damaged_unit
from sam3lt_ray.storage.layers import layer_number, questions_of, read_layers
from sam3lt_ray.storage.ledger import LABELS_PREFIX, UnitFile
from sam3lt_ray.storage.parquet_files import read_whole
from sam3lt_ray.storage.run_directory import VOCABULARY_PATH, read_json, read_run
from sam3lt_ray.storage.snapshot import read_editions
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Vocabulary

__all__ = ["LabeledImage", "RunReader"]


@dataclass(frozen=True)
class RunReader:
    """Reads the committed labels of a run; a run that is still being labeled reads as far as it is.

    What is read is what the run's vocabulary says now: labels that were removed are not in it, nor are answers to
    prompts that a label no longer has, nor labels of a content that a shard no longer has.

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

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        value = read_json(self.store, VOCABULARY_PATH)
        if value is None:
            raise InputError(
                f"{self.store.uri} has no {VOCABULARY_PATH}, so its labels have no names. "
                "`sam3lt label` writes it before the first image; start it again."
            )
        return Vocabulary.from_json(value)

    def vocabulary(self) -> Vocabulary:
        """The run's labels with their ids, in the order of vocabulary.json; removed ones are not among them.

        Raises:
            InputError: The run has no vocabulary.json.
        """
        return self._vocabulary

    def default_score_threshold(self) -> float:
        """Scores under it are not exported, for labels without a threshold of their own (from the run's config)."""
        labeling = self.run.get("config", {}).get("labeling", {})
        return float(labeling.get("score_threshold", 0.5))

    def thresholds(self, score_threshold: float | None = None) -> dict[int, float]:
        """Score threshold of every label: its own, else ``score_threshold``, else the run's default."""
        default = self.default_score_threshold() if score_threshold is None else score_threshold
        return {label.id: default if label.threshold is None else label.threshold for label in self.vocabulary().labels}

    def coverage(self) -> Coverage:
        """What is committed now.

        Raises:
            RunMismatchError: Units of one layer overlap.
        """
        paths = [file.path for file in self.store.list(LABELS_PREFIX)]
        layers = read_layers(self.store, self.run)
        wanted = questions_of(self.vocabulary().labels)
        return Coverage(layers, wanted, read_editions(self.store)).add_paths(paths)

    def unit_files(self) -> list[UnitFile]:
        """Every committed unit that is read, by shard directory, position and layer.

        Raises:
            RunMismatchError: Units of one layer overlap.
        """
        return list(self.coverage().iter_units())

    def read_table(self, unit: UnitFile, columns: Sequence[str] | None = None) -> pa.Table:
        """One unit's rows with the file's metadata; rows that were tried again are the newest ones.

        Args:
            unit: Which unit.
            columns: Names of the columns to read ("instances.list.element.score" for a part); None: all.
        """
        if not unit.num_retries:
            return self._read_file(unit.path, columns)
        wanted = None if columns is None else list(dict.fromkeys(["index", *columns]))
        table = self._read_file(unit.path, wanted)
        for path in unit.paths[1:]:
            newer = self._read_file(path, wanted)
            is_kept = pc.invert(pc.is_in(table.column("index"), value_set=newer.column("index").combine_chunks()))
            table = pa.concat_tables([table.filter(is_kept), newer.replace_schema_metadata(table.schema.metadata)])
        table = table.sort_by("index")
        return table if columns is None or "index" in columns else table.drop_columns(["index"])

    def iter_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One table per unit (LABEL_SCHEMA, or the named columns of it); layers are not joined."""
        for unit in self.unit_files():
            yield self.read_table(unit, columns)

    def iter_images(self) -> Iterator[LabeledImage]:
        """Every image once, by shard and position, with the labels of all layers together.

        An image that failed in any layer has status "error" and the reason of the first such layer; its labels from
        the other layers are kept.
        """
        coverage = self.coverage()
        for _, units in groupby(coverage.iter_units(), key=attrgetter("shard_dir")):
            yield from self.iter_shard(list(units), coverage)

    def iter_shard(self, units: Sequence[UnitFile], coverage: Coverage) -> Iterator[LabeledImage]:
        """The same for the units of one shard in all layers, in order within each layer."""
        layers = sorted({unit.layer for unit in units}, key=layer_number)
        if len(layers) == 1:
            yield from self._iter_layer(units, coverage.answers[layers[0]])
            return
        # Rows of a layer are in order of index, so merging the layers needs one unit of each in memory.
        streams = [
            self._layer_answers([unit for unit in units if unit.layer == layer], coverage.answers[layer])
            for layer in layers
        ]
        by_index = attrgetter("image.index")
        for _, same_image in groupby(heapq.merge(*streams, key=by_index), key=by_index):
            yield join_layers(list(same_image))

    def _layer_answers(self, units: Sequence[UnitFile], label_ids: AbstractSet[int]) -> Iterator[LayerAnswer]:
        for image in self._iter_layer(units, label_ids):
            yield LayerAnswer(image, label_ids)

    def _iter_layer(self, units: Sequence[UnitFile], label_ids: AbstractSet[int]) -> Iterator[LabeledImage]:
        for unit in units:
            for image in images_of_table(self.read_table(unit)):
                yield _restricted(image, label_ids)

    def _read_file(self, path: str, columns: Sequence[str] | None) -> pa.Table:
        with self.store.open(path) as file, naming_damaged_unit(self.store, path):
            return read_whole(file, columns)


@dataclass(frozen=True, slots=True)
class LayerAnswer:
    """What one layer says about an image.

    Attributes:
        image: The answer, or why there is none.
        label_ids: What the layer was asked for, as far as it is wanted.
    """

    image: LabeledImage
    label_ids: AbstractSet[int]


def join_layers(answers: Sequence[LayerAnswer]) -> LabeledImage:
    """One image from what each layer says about it.

    Where two layers answer one label, the newer one counts: two drivers with different vocabularies may have asked.

    Args:
        answers: Oldest layer first.

    Raises:
        RunMismatchError: The layers saw different images at the same position of the shard.
    """
    first = answers[0].image
    for other in (answer.image for answer in answers[1:]):
        if other.image_id != first.image_id:
            raise RunMismatchError(
                f"Image {first.index} of shard {first.shard!r} is {first.key!r} in one layer and {other.key!r} in "
                "another: the shard changed between two runs. Label it into a new run directory."
            )
    answered: set[int] = set()
    layers: list[LabeledImage] = []
    for answer in reversed(answers):
        image = answer.image
        layers.insert(0, _restricted(image, image.presence.keys() - answered) if image.presence else image)
        answered |= image.presence.keys()
    failures = (one.image for one in answers if one.image.status == "error" and not one.label_ids <= answered)
    failed = next(failures, None)
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


def _restricted(image: LabeledImage, label_ids: AbstractSet[int]) -> LabeledImage:
    """The image with the answers to some labels only."""
    if image.presence.keys() <= label_ids:
        return image
    return replace(
        image,
        presence={label_id: value for label_id, value in image.presence.items() if label_id in label_ids},
        saturated=tuple(label_id for label_id in image.saturated if label_id in label_ids),
        instances=tuple(found for found in image.instances if found.label_id in label_ids),
    )
