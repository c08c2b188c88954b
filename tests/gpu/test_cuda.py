"""The engine on a CUDA GPU against itself on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.masks.rle import decode_mask
from sam3lt_ray.records import ImageDetections
from tests.checkpoints import IMAGE_SIZE, PROMPTS, VARIANTS
from tests.engine_reference import (
    ReferenceInstance,
    assert_same_instances,
    mask_iou,
    of_prompt,
    random_checkpoints,  # noqa: F401  (a fixture)
    smooth_image,
)

IMAGES = [smooth_image(IMAGE_SIZE, seed) for seed in range(3)]
SIZES_HW = [(60, 91), (300, 212), (31, 140)]


def segment(checkpoint: Checkpoint, device: str, precision: str) -> list[ImageDetections]:
    segmenter = Segmenter.load(checkpoint, PROMPTS, EngineSettings(device=device, precision=precision))
    assert segmenter.device.startswith(device)
    assert segmenter.precision == precision
    return segmenter.segment(IMAGES, SIZES_HW)


@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("variant", VARIANTS)
def test_fp32_is_the_cpus(variant: str, random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    checkpoint = random_checkpoints[variant]
    for found, expected in zip(segment(checkpoint, "cuda", "fp32"), segment(checkpoint, "cpu", "fp32"), strict=True):
        np.testing.assert_allclose(found.presence, expected.presence, atol=1e-3)
        for prompt in range(len(PROMPTS)):
            instances = [
                ReferenceInstance(one.score, np.array(one.box_xyxy, np.float32), decode_mask(one.mask))
                for one in of_prompt(expected, prompt)
            ]
            assert_same_instances(
                of_prompt(found, prompt), instances, score_tolerance=1e-3, box_tolerance=0.1, least_iou=0.995
            )


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_is_close(variant: str, random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    checkpoint = random_checkpoints[variant]
    ious = []
    for found, expected in zip(segment(checkpoint, "cuda", "bf16"), segment(checkpoint, "cpu", "fp32"), strict=True):
        np.testing.assert_allclose(found.presence, expected.presence, atol=0.1)
        # The surest instances: random weights leave most scores near the floor, and what is there may fall under it.
        for one in sorted(expected.detections, key=lambda one: one.score)[-5:]:
            partners = of_prompt(found, one.prompt)
            if not partners and one.score < 0.35:
                continue
            assert partners
            partner = min(partners, key=lambda other: np.abs(np.subtract(other.box_xyxy, one.box_xyxy)).sum())
            assert partner.score == pytest.approx(one.score, abs=0.15)
            ious.append(mask_iou(decode_mask(partner.mask), decode_mask(one.mask)))
    assert np.median(ious) > 0.8


def test_automatic_choice_is_the_gpu() -> None:
    from sam3lt_ray.engine.devices import choose_placement

    assert choose_placement("auto", "auto").device.type == "cuda"
