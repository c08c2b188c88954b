"""The reference for the engine: transformers' own forward for one image and one prompt, and its post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sam3lt_ray.benchmark.post_processing import post_process_instance_segmentation
from sam3lt_ray.engine.checkpoint import Checkpoint, resolve_checkpoint
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.masks.rle import decode_mask
from sam3lt_ray.records import Detection, ImageDetections
from tests.checkpoints import PROMPTS, VARIANTS, make_random_checkpoint

FLOOR = 0.2

# The models here are tiny: handing their work between threads costs more than it saves, much more on a busy machine.
torch.set_num_threads(1)


@dataclass
class ReferenceInstance:
    """As transformers gives it: float score, float32[4] box in pixels, bool[H, W] mask."""

    score: float
    box_xyxy: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


@dataclass
class Loaded:
    """A checkpoint, the engine on it, and transformers' model on it."""

    checkpoint: Checkpoint
    prompts: Sequence[str]
    segmenter: Segmenter
    model: Any


@pytest.fixture(scope="session")
def random_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A small random checkpoint of every variant."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {variant: resolve_checkpoint(str(make_random_checkpoint(folder / variant, variant))) for variant in VARIANTS}


@pytest.fixture(scope="session")
def s0(random_checkpoints: dict[str, Checkpoint]) -> Loaded:
    return load_both(random_checkpoints["s0"])


def load_both(checkpoint: Checkpoint, prompts: Sequence[str] = PROMPTS, **settings: Any) -> Loaded:
    settings = {"device": "cpu", "precision": "fp32", "score_floor": FLOOR, **settings}
    segmenter = Segmenter.load(checkpoint, prompts, EngineSettings(**settings))
    return Loaded(checkpoint, prompts, segmenter, load_model(checkpoint))


def smooth_image(size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Coarse random colours, interpolated: uint8 [size, size, 3]."""
    random = np.random.RandomState(seed)
    coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, 7, 7)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255)
    pixels: npt.NDArray[np.uint8] = fine[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
    return pixels


def reference(
    loaded: Loaded, pixels: npt.NDArray[np.uint8], size_hw: tuple[int, int]
) -> tuple[list[float], list[list[ReferenceInstance]]]:
    """Presence and instances of every prompt, by transformers alone."""
    ids, mask = (torch.from_numpy(array) for array in PromptTokenizer(loaded.checkpoint).encode(loaded.prompts))
    values = ((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    presence, instances = [], []
    for prompt in range(len(loaded.prompts)):
        row = slice(prompt, prompt + 1)
        with torch.inference_mode():
            outputs = loaded.model(pixel_values=values, input_ids=ids[row], attention_mask=mask[row])
        result = post_process_instance_segmentation(
            outputs, threshold=FLOOR, mask_threshold=0.5, target_sizes=[size_hw]
        )
        presence.append(float(outputs.presence_logits.sigmoid()))
        instances.append(as_instances(*(result[0][name].numpy() for name in ("scores", "boxes", "masks"))))
    return presence, instances


def as_instances(scores: Any, boxes: Any, masks: Any) -> list[ReferenceInstance]:
    return [
        ReferenceInstance(float(score), box, mask.astype(bool))
        for score, box, mask in zip(scores, boxes, masks, strict=True)
    ]


def of_prompt(image: ImageDetections, prompt: int) -> list[Detection]:
    return [one for one in image.detections if one.prompt == prompt]


def assert_same_instances(
    found: Sequence[Detection],
    expected: Sequence[ReferenceInstance],
    *,
    score_tolerance: float = 1e-4,
    box_tolerance: float = 0.01,
    least_iou: float = 0.999,
) -> None:
    """Every expected instance has a partner of its own, and nothing else was found."""
    assert len(found) == len(expected)
    left = list(found)
    for instance in expected:
        partner = max(
            left, key=lambda one: mask_iou(decode_mask(one.mask), instance.mask) - abs(one.score - instance.score)
        )
        assert partner.score == pytest.approx(instance.score, abs=score_tolerance)
        np.testing.assert_allclose(partner.box_xyxy, instance.box_xyxy, atol=box_tolerance)
        assert mask_iou(decode_mask(partner.mask), instance.mask) >= least_iou
        assert partner.area == int(decode_mask(partner.mask).sum())
        left.remove(partner)


def mask_iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """1 for two empty masks."""
    assert one.shape == other.shape
    union = int((one | other).sum())
    return float((one & other).sum()) / union if union else 1.0
