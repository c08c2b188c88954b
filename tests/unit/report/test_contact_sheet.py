"""The choice of images: every label, full ones, and a sample that nobody can influence."""

from __future__ import annotations

import numpy as np

from sam3lt_ray.labels.reading import LabeledImage
from sam3lt_ray.report.contact_sheet import choose_images
from tests.run_factory import make_failed_image, make_image, make_instance

MASK = np.pad(np.ones((6, 11), dtype=bool), ((2, 40), (3, 66)))


def _image(index: int, *found: tuple[int, float]) -> LabeledImage:
    instances = [make_instance(MASK, label_id=label_id, score=score) for label_id, score in found]
    return make_image(f"{index}.jpg", index=index, instances=instances)


def _choose(images: list[LabeledImage], max_images: int, thresholds: dict[int, float] | None = None) -> list[int]:
    return [image.index for image in choose_images(images, thresholds or {}, max_images)]


def test_every_label_is_shown_by_its_best_find() -> None:
    images = [_image(n) for n in range(40)]
    images[7] = _image(7, (1, 0.7))
    images[13] = _image(13, (1, 0.9))
    images[29] = _image(29, (2, 0.6))
    assert set(_choose(images, 2)) == {13, 29}


def test_one_image_may_stand_for_several_labels() -> None:
    images = [_image(0, (1, 0.9), (2, 0.95)), _image(1, (3, 0.8)), _image(2, (1, 0.5))]
    assert _choose(images, 2) == [0, 1]


def test_scores_below_a_labels_threshold_show_nothing() -> None:
    images = [_image(n) for n in range(20)] + [_image(20, (1, 0.6)), _image(21, (2, 0.6))]
    assert 21 in _choose(images, 1, {1: 0.7})
    assert 20 in _choose(images, 1, {2: 0.7})


def test_full_images_and_a_sample_share_the_rest() -> None:
    images = [_image(n) for n in range(100)]
    for n in (50, 51, 52, 53, 54, 55):
        images[n] = _image(n, *[(1, 0.8)] * (n - 40))
    chosen = _choose(images, 9)
    assert len(chosen) == 9
    assert {55, 54, 53, 52} <= set(chosen)  # one for its label, then half of the other eight
    assert sum(not images[n].instances for n in chosen) >= 3


def test_choice_is_the_same_every_time_in_order_of_the_run() -> None:
    images = [_image(n, *[(n % 5, 0.5 + (n * 37 % 50) / 100)] * (n % 7)) for n in range(200)]
    first = _choose(images, 12)
    assert first == _choose(images, 12) == sorted(first)
    assert len(set(first)) == 12


def test_small_runs_are_shown_whole_without_failed_images() -> None:
    images = [_image(0, (1, 0.9)), make_failed_image("1.jpg", index=1), _image(2)]
    assert _choose(images, 24) == [0, 2]
    assert _choose([], 24) == []
