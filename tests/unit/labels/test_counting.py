"""The numbers of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam3lt_ray.labels.counting import ErrorExample, summarize
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_run

CAT, DOG, CAR = Label(3, "cat", ("cat",)), Label(5, "dog", ("dog",)), Label(9, "car", ("car",))
MASK = np.pad(np.ones((5, 9), dtype=bool), ((3, 40), (8, 63)))


def _found(label_id: int, *scores: float) -> list:
    return [make_instance(MASK, label_id=label_id, score=score) for score in scores]


def test_everything_is_counted_once_across_units_shards_and_layers(tmp_path: Path) -> None:
    images = [
        make_image("0", index=0, presence={3: 0.9, 5: 0.5}, instances=_found(3, 0.91, 0.25)),
        make_failed_image("1", index=1, kind="empty", message="No bytes."),
        make_image("2", index=2, presence={3: 0.4, 5: 0.6}, instances=_found(5, 0.55)),
        make_image("0", index=0, shard="s1", presence={3: 0.7, 5: 0.0}, instances=_found(3, 0.995)),
    ]
    make_run(tmp_path, images, [CAT, DOG], images_per_unit=2)
    added = [
        make_image("0", index=0, presence={9: 0.9}),
        make_failed_image("1", index=1, kind="empty", message="No bytes."),
        make_failed_image("2", index=2, kind="corrupt", message="Broken."),
    ]
    counts = summarize(RunReader(make_run(tmp_path, added, [CAR], layer="001", images_per_unit=2)))

    assert counts.images == 4
    assert counts.images_by_status == {"ok": 2, "error": 2}
    assert counts.errors_by_kind == {"corrupt": 1, "empty": 1}
    assert counts.error_examples["empty"] == (ErrorExample("shard-0.tar", "1", "No bytes."),)
    assert {label_id: label.images_present for label_id, label in counts.labels.items()} == {3: 2, 5: 2, 9: 1}
    assert {label_id: label.instances for label_id, label in counts.labels.items()} == {3: 3, 5: 1, 9: 0}
    assert counts.instances == 4
    filled = {position: number for position, number in enumerate(counts.score_histogram) if number}
    assert filled == {25: 1, 55: 1, 91: 1, 99: 1}


def test_median_and_thresholds_come_from_the_histogram(tmp_path: Path) -> None:
    image = make_image("0", presence={3: 1.0, 5: 0.0}, instances=_found(3, 0.21, 0.505, 0.815))
    labels = summarize(RunReader(make_run(tmp_path, [image], [CAT, DOG]))).labels
    assert labels[3].median_score == pytest.approx(0.505)
    assert [labels[3].instances_from(threshold) for threshold in (0.0, 0.5, 0.81, 0.9, 1.0)] == [3, 2, 1, 0, 0]
    assert labels[5].median_score is None
    assert labels[5].instances_from(0.0) == 0


def test_only_a_few_errors_are_kept_as_examples(tmp_path: Path) -> None:
    images = [make_failed_image(str(index), index=index) for index in range(30)]
    counts = summarize(RunReader(make_run(tmp_path, images, [CAT])))
    assert counts.errors_by_kind == {"corrupt": 30}
    assert [example.key for example in counts.error_examples["corrupt"]] == ["0", "1", "2", "3", "4"]


def test_a_run_without_labels_counts_to_nothing(tmp_path: Path) -> None:
    counts = summarize(RunReader(make_run(tmp_path, [], [CAT])))
    assert (counts.images, counts.instances, counts.errors_by_kind) == (0, 0, {})
