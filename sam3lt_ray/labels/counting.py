"""The numbers of a run, from as few bytes as possible: run lengths, which are most of a run, are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sam3lt_ray.labels.columns import flat_list, presence_label_ids, struct_field
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import layer_number
from sam3lt_ray.storage.ledger import UnitFile

NUM_SCORE_BINS: Final = 100
PRESENT: Final = 0.5  # presence probability from which a label counts as present
_EXAMPLES_PER_KIND = 5
_COLUMNS = (
    "shard",
    "index",
    "key",
    "status",
    "error_kind",
    "error_message",
    "presence",
    "instances.list.element.label_id",
    "instances.list.element.score",
)


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """One image that could not be labeled."""

    shard: str
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Numbers about one label.

    Attributes:
        images_present: Images whose presence probability is at least 0.5.
        instances: Stored instances (above the floor).
        score_histogram: Their scores in 100 equal bins over [0, 1].
    """

    images_present: int = 0
    instances: int = 0
    score_histogram: tuple[int, ...] = (0,) * NUM_SCORE_BINS

    @property
    def median_score(self) -> float | None:
        """Median score to the middle of its bin (within 0.005); None without instances."""
        if self.instances == 0:
            return None
        position = int(np.searchsorted(np.cumsum(self.score_histogram), (self.instances + 1) // 2))
        return (position + 0.5) / NUM_SCORE_BINS

    def instances_from(self, score_threshold: float) -> int:
        """Instances with at least this score, to the precision of the bins."""
        first_bin = min(int(score_threshold * NUM_SCORE_BINS + 1e-6), NUM_SCORE_BINS - 1)
        return sum(self.score_histogram[first_bin:])


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Numbers about a run.

    Attributes:
        images: Images that have a row.
        images_by_status: "ok" and "error" to number of images; an image that failed in any layer is an error, unless
            other layers answer all that it was asked there.
        errors_by_kind: Kind of error to number of images.
        error_examples: Kind of error to its first few images.
        labels: Label id to its numbers, for every label of the vocabulary.
    """

    images: int
    images_by_status: Mapping[str, int]
    errors_by_kind: Mapping[str, int]
    error_examples: Mapping[str, Sequence[ErrorExample]]
    labels: Mapping[int, LabelCounts]

    @property
    def instances(self) -> int:
        """Stored instances of all labels."""
        return sum(label.instances for label in self.labels.values())

    @property
    def score_histogram(self) -> tuple[int, ...]:
        """Scores of all instances in 100 equal bins over [0, 1]."""
        columns = zip(*(label.score_histogram for label in self.labels.values()), strict=True)
        return tuple(sum(column) for column in columns) if self.labels else (0,) * NUM_SCORE_BINS


def summarize(reader: RunReader) -> RunCounts:
    """Count everything in a run; memory grows with the images of one shard (8 bytes each), not with the run."""
    tally = _Tally({label.id: _LabelTally() for label in reader.vocabulary().labels})
    coverage = reader.coverage()
    for _, of_shard in groupby(coverage.iter_units(), key=attrgetter("shard_dir")):
        units = list(of_shard)
        if coverage.is_asked_twice(units):
            tally.add_images(reader.iter_shard(units, coverage))
        else:
            tally.add_shard(_read_shard(reader, units, coverage))
    return tally.result()


def _read_shard(
    reader: RunReader, units: Sequence[UnitFile], coverage: Coverage
) -> Iterator[tuple[pa.Table, frozenset[int]]]:
    """Tables of a shard, oldest layers first, with the labels that count in them."""
    for unit in sorted(units, key=lambda unit: layer_number(unit.layer)):
        yield reader.read_table(unit, _COLUMNS), coverage.answers[unit.layer]


@dataclass(slots=True)
class _LabelTally:
    images_present: int = 0
    scores: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_SCORE_BINS, dtype=np.int64))


@dataclass(slots=True)
class _Tally:
    labels: dict[int, _LabelTally]
    images: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[ErrorExample]] = field(default_factory=dict)

    def add_images(self, images: Iterator[LabeledImage]) -> None:
        """Count whole images: exact also where two layers asked the same, but slower."""
        for image in images:
            self.images += 1
            if image.status == "error":
                self._add_error(str(image.error_kind), image.shard, image.key, str(image.error_message))
            for label_id, presence in image.presence.items():
                self.labels[label_id].images_present += presence >= PRESENT
            for found in image.instances:
                self.labels[found.label_id].scores[_score_bins(np.array([found.score]))[0]] += 1

    def add_shard(self, tables: Iterator[tuple[pa.Table, frozenset[int]]]) -> None:
        """Layers repeat a shard's images: images and errors are counted once, by position in the shard."""
        positions: list[npt.NDArray[np.int64]] = []
        failed: set[int] = set()
        for table, label_ids in tables:
            index = table.column("index").to_numpy()
            positions.append(index)
            self._add_errors(table, index, failed)
            self._add_presence(table, label_ids)
            self._add_scores(table, label_ids)
        self.images += len(np.unique(np.concatenate(positions)))

    def _add_errors(self, table: pa.Table, index: npt.NDArray[np.int64], failed: set[int]) -> None:
        is_error = np.array(table.column("status").to_pylist()) == "error"
        for row in np.flatnonzero(is_error).tolist():
            position = int(index[row])
            if position in failed:
                continue
            failed.add(position)
            columns = ("error_kind", "shard", "key", "error_message")
            self._add_error(*(str(table.column(name)[row].as_py()) for name in columns))

    def _add_error(self, kind: str, shard: str, key: str, message: str) -> None:
        self.errors[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES_PER_KIND:
            examples.append(ErrorExample(shard, key, message))

    def _add_presence(self, table: pa.Table, wanted: frozenset[int]) -> None:
        label_ids = presence_label_ids(table.schema)
        values, _ = flat_list(table, "presence")
        presence = values.to_numpy(zero_copy_only=False).reshape(-1, max(1, len(label_ids)))
        for label_id, images in zip(label_ids, (presence >= PRESENT).sum(axis=0).tolist(), strict=False):
            if label_id in wanted:
                self.labels[label_id].images_present += images

    def _add_scores(self, table: pa.Table, wanted: frozenset[int]) -> None:
        structs, _ = flat_list(table, "instances")
        label_ids = struct_field(structs, "label_id").to_numpy(zero_copy_only=False)
        bins = _score_bins(struct_field(structs, "score").to_numpy(zero_copy_only=False))
        for label_id in wanted.intersection(np.unique(label_ids).tolist()):
            self.labels[label_id].scores += np.bincount(bins[label_ids == label_id], minlength=NUM_SCORE_BINS)

    def result(self) -> RunCounts:
        num_errors = sum(self.errors.values())
        return RunCounts(
            images=self.images,
            images_by_status={"ok": self.images - num_errors, "error": num_errors},
            errors_by_kind=dict(sorted(self.errors.items())),
            error_examples={kind: tuple(examples) for kind, examples in sorted(self.examples.items())},
            labels={
                label_id: LabelCounts(tally.images_present, int(tally.scores.sum()), tuple(tally.scores.tolist()))
                for label_id, tally in self.labels.items()
            },
        )


def _score_bins(scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    return np.clip((scores * NUM_SCORE_BINS).astype(np.int64), 0, NUM_SCORE_BINS - 1)
