"""Results depend neither on batch sizes nor on which images share a batch, beyond rounding."""

from __future__ import annotations

import numpy as np
import pytest

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.masks.rle import decode_mask
from sam3lt_ray.records import ImageDetections
from tests.checkpoints import IMAGE_SIZE, PROMPTS
from tests.engine_reference import (
    FLOOR,
    ReferenceInstance,
    assert_same_instances,
    of_prompt,
    random_checkpoints,  # noqa: F401  (a fixture)
    smooth_image,
)

IMAGES = [smooth_image(IMAGE_SIZE, seed) for seed in range(4)]
SIZES_HW = [(60, 91), (112, 112), (31, 140), (90, 45)]


def segment(checkpoint: Checkpoint, order: list[int], images: int, prompts: int) -> list[ImageDetections]:
    settings = EngineSettings(
        score_floor=FLOOR, device="cpu", precision="fp32", images_per_batch=images, prompts_per_batch=prompts
    )
    segmenter = Segmenter.load(checkpoint, PROMPTS, settings)
    return segmenter.segment([IMAGES[index] for index in order], [SIZES_HW[index] for index in order])


def assert_same(found: ImageDetections, expected: ImageDetections) -> None:
    np.testing.assert_allclose(found.presence, expected.presence, atol=1e-4)
    np.testing.assert_array_equal(found.saturated, expected.saturated)
    for prompt in range(len(PROMPTS)):
        assert_same_instances(
            of_prompt(found, prompt),
            [
                ReferenceInstance(one.score, np.array(one.box_xyxy, np.float32), decode_mask(one.mask))
                for one in of_prompt(expected, prompt)
            ],
        )


@pytest.fixture(scope="module")
def one_by_one(random_checkpoints: dict[str, Checkpoint]) -> list[ImageDetections]:  # noqa: F811
    return [segment(random_checkpoints["s1"], [index], 1, 1)[0] for index in range(len(IMAGES))]


@pytest.mark.parametrize(
    ("images", "prompts"), [(1, 3), (1, len(PROMPTS)), (2, 1), (2, len(PROMPTS)), (4, 3), (4, len(PROMPTS)), (3, 100)]
)
def test_batch_sizes_do_not_matter(
    images: int,
    prompts: int,
    one_by_one: list[ImageDetections],
    random_checkpoints: dict[str, Checkpoint],  # noqa: F811
) -> None:
    assert sum(len(one.detections) for one in one_by_one) > 10
    found = segment(random_checkpoints["s1"], [0, 1, 2, 3], images, prompts)
    for one, expected in zip(found, one_by_one, strict=True):
        assert_same(one, expected)


def test_neighbours_do_not_matter(
    one_by_one: list[ImageDetections],
    random_checkpoints: dict[str, Checkpoint],  # noqa: F811
) -> None:
    order = [3, 1, 3, 0, 2]
    found = segment(random_checkpoints["s1"], order, 4, 5)
    for index, one in zip(order, found, strict=True):
        assert_same(one, one_by_one[index])


def test_same_call_twice_gives_the_same_bits(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    settings = EngineSettings(device="cpu", precision="fp32", images_per_batch=2, prompts_per_batch=3)
    segmenter = Segmenter.load(random_checkpoints["s0"], PROMPTS, settings)
    first, second = (segmenter.segment(IMAGES, SIZES_HW) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.presence, other.presence)
        assert one.detections == other.detections


def test_a_prompt_does_not_depend_on_the_other_prompts(
    one_by_one: list[ImageDetections],
    random_checkpoints: dict[str, Checkpoint],  # noqa: F811
) -> None:
    """Padding of short prompts next to long ones must not be seen."""
    for prompt, text in enumerate(PROMPTS):
        alone = Segmenter.load(
            random_checkpoints["s1"], [text], EngineSettings(device="cpu", precision="fp32", score_floor=FLOOR)
        )
        (found,) = alone.segment(IMAGES[:1], SIZES_HW[:1])
        np.testing.assert_allclose(found.presence[0], one_by_one[0].presence[prompt], atol=1e-4)
        assert len(found.detections) == len(of_prompt(one_by_one[0], prompt))
