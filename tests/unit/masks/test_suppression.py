"""Merging what two phrases for one label found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sam3lt_ray.masks import rle
from sam3lt_ray.masks.suppression import merge_prompt_instances
from sam3lt_ray.records import Instance

HEIGHT, WIDTH = 60, 100


def _instance(box_xyxy: tuple[int, int, int, int], *, score: float, prompt: int = 0, label: int = 7) -> Instance:
    left, top, right, bottom = box_xyxy
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    box = (float(left), float(top), float(right), float(bottom))
    return Instance(label, prompt, score, box, int(mask.sum()), rle.encode_mask(mask))


def test_the_better_of_two_prompts_is_kept() -> None:
    good = _instance((10, 10, 50, 40), score=0.9, prompt=1)
    other = _instance((10, 10, 50, 39), score=0.8, prompt=0)
    assert merge_prompt_instances([other, good], 0.7) == (good,)


def test_instances_of_the_same_prompt_never_drop_each_other() -> None:
    first = _instance((10, 10, 50, 40), score=0.9)
    twin = _instance((10, 10, 50, 40), score=0.8)
    assert merge_prompt_instances([first, twin], 0.5) == (first, twin)


def test_same_prompt_twins_stay_while_the_other_prompt_is_dropped() -> None:
    first = _instance((10, 10, 50, 40), score=0.9, prompt=0)
    twin = _instance((10, 10, 50, 40), score=0.8, prompt=0)
    other = _instance((10, 10, 50, 40), score=0.85, prompt=1)
    assert merge_prompt_instances([first, twin, other], 0.5) == (first, twin)


def test_the_threshold_itself_merges_and_less_does_not() -> None:
    whole = _instance((0, 0, 10, 10), score=0.9, prompt=0)
    half = _instance((0, 0, 5, 10), score=0.8, prompt=1)  # IoU exactly 0.5
    assert merge_prompt_instances([whole, half], 0.5) == (whole,)
    assert merge_prompt_instances([whole, half], 0.51) == (whole, half)


def test_a_dropped_instance_drops_nothing() -> None:
    best = _instance((0, 0, 20, 10), score=0.9, prompt=0)
    middle = _instance((6, 0, 26, 10), score=0.8, prompt=1)  # dropped by best (IoU 0.54)
    last = _instance((12, 0, 32, 10), score=0.7, prompt=2)  # close to middle only (0.25 to best)
    assert merge_prompt_instances([best, middle, last], 0.5) == (best, last)


def test_masks_decide_and_not_boxes() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[:, 0] = mask[0, :] = True
    corner = mask[::-1, ::-1]
    a = Instance(7, 0, 0.9, (0.0, 0.0, WIDTH, HEIGHT), int(mask.sum()), rle.encode_mask(mask))
    b = Instance(7, 1, 0.8, (0.0, 0.0, WIDTH, HEIGHT), int(corner.sum()), rle.encode_mask(corner.copy()))
    assert merge_prompt_instances([a, b], 0.5) == (a, b)


def test_order_of_the_input_does_not_matter_even_with_ties() -> None:
    instances = [
        _instance((0, 0, 20, 10), score=0.5, prompt=1),
        _instance((1, 0, 21, 10), score=0.5, prompt=0),
        _instance((2, 0, 22, 10), score=0.5, prompt=2),
        _instance((60, 20, 90, 50), score=0.5, prompt=0),
    ]
    results = {merge_prompt_instances(order, 0.6) for order in itertools.permutations(instances)}
    assert results == {(instances[1], instances[3])}


def test_empty_masks_and_no_instances_are_left_alone() -> None:
    empty = [_instance((5, 5, 5, 5), score=0.9 - prompt / 10, prompt=prompt) for prompt in range(2)]
    assert merge_prompt_instances(empty, 0.5) == tuple(empty)
    assert merge_prompt_instances([], 0.5) == ()


def test_prefilter_changes_nothing_against_the_full_matrix() -> None:
    rng = np.random.default_rng(5)
    instances = []
    for _ in range(120):
        left, top = int(rng.integers(0, 80)), int(rng.integers(0, 45))
        width, height = (int(side) for side in rng.integers(1, 20, 2))
        box = (left, top, left + width, top + height)
        instances.append(_instance(box, score=float(rng.random()), prompt=int(rng.integers(0, 3))))
    ordered = sorted(instances, key=lambda instance: -instance.score)
    matrix = rle.iou([i.mask for i in ordered], [i.mask for i in ordered])
    kept: list[int] = []
    for n, instance in enumerate(ordered):
        if all(matrix[n, k] < 0.4 or ordered[k].prompt_index == instance.prompt_index for k in kept):
            kept.append(n)
    expected = tuple(ordered[n] for n in kept)
    assert 0 < len(expected) < len(instances)
    assert merge_prompt_instances(instances, 0.4) == expected


def test_two_labels_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="one label"):
        merge_prompt_instances([_instance((0, 0, 5, 5), score=1), _instance((0, 0, 5, 5), score=1, label=8)], 0.5)
