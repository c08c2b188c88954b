"""Against what the documented processor gave where torchvision exists (tests/data/golden/make_processor_golden.py)."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.runs import MaskEncoding
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.images.resize import resize_for_model
from sam3lt_ray.masks.rle import decode_mask
from tests.engine_reference import (
    as_instances,
    assert_same_instances,
    of_prompt,
    post_process_instance_segmentation,
    random_checkpoints,  # noqa: F401  (a fixture)
)

GOLDEN = Path(__file__).parents[2] / "data" / "golden"

pytestmark = pytest.mark.skipif(
    not all((GOLDEN / f"{name}.npz").is_file() for name in ("preparation", "postprocess", "endtoend")),
    reason="golden files are not there: run tests/data/golden/make_processor_golden.py where torchvision is",
)


def load(name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def decode_png(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())))


def masks_of(golden: dict[str, npt.NDArray[Any]], name: str) -> npt.NDArray[np.bool_]:
    shape = golden[f"mask_shape_{name}"]
    bits = np.unpackbits(golden[f"mask_bits_{name}"], count=int(np.prod(shape)))
    return bits.reshape(shape).astype(bool)


def processor_pixels(image_hwc: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """What the processor resizes an image to: torchvision hands uint8 images to this very function of torch."""
    pixels = torch.from_numpy(image_hwc.copy()).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    result: npt.NDArray[np.uint8] = resized[0].permute(1, 2, 0).contiguous().numpy()
    return result


def test_preparation_differs_by_one_level_at_most() -> None:
    golden = load("preparation")
    for case in range(int(golden["num_cases"])):
        image_hwc = decode_png(golden[f"png_{case}"])
        assert tuple(golden[f"original_size_{case}"]) == image_hwc.shape[:2]
        ours = resize_for_model(image_hwc, int(golden[f"size_{case}"]))[:: int(golden[f"row_step_{case}"])]
        theirs = processor_pixels(image_hwc, int(golden[f"size_{case}"]))[:: int(golden[f"row_step_{case}"])]
        np.testing.assert_array_equal(theirs, golden[f"levels_{case}"])
        difference = np.abs(ours.astype(int) - golden[f"levels_{case}"].astype(int))
        assert difference.max() <= 1, case
        assert (difference > 0).mean() < 0.002, case


def test_normalisation_is_the_processors() -> None:
    golden = load("preparation")
    assert golden["image_mean"].tolist() == golden["image_std"].tolist() == [0.5, 0.5, 0.5]
    for case in range(int(golden["num_cases"])):
        corner = golden[f"pixel_values_corner_{case}"]
        rows = slice(0, 1) if int(golden[f"row_step_{case}"]) > 4 else slice(0, 4)  # the rows that were kept
        levels = golden[f"levels_{case}"][rows, :8].astype(np.float32)
        expected = ((levels / 255 - 0.5) / 0.5).transpose(2, 0, 1)
        np.testing.assert_allclose(corner[:, rows], expected, atol=1e-5)


def test_postprocessing() -> None:
    golden = load("postprocess")
    count = 0
    for case in range(int(golden["num_cases"])):
        floor, mask_threshold = golden[f"thresholds_{case}"].tolist()
        height, width = golden[f"target_size_{case}"].tolist()
        logits = torch.from_numpy(golden[f"mask_logits_{case}"].astype(np.float32))
        outputs = SimpleNamespace(
            pred_logits=torch.from_numpy(golden[f"logits_{case}"]),
            presence_logits=torch.from_numpy(golden[f"presence_{case}"]),
            pred_boxes=torch.from_numpy(golden[f"boxes_in_{case}"]),
            pred_masks=logits,
        )
        (result,) = post_process_instance_segmentation(
            outputs, threshold=floor, mask_threshold=mask_threshold, target_sizes=[(height, width)]
        )
        expected = masks_of(golden, str(case))
        np.testing.assert_array_equal(result["masks"].numpy().astype(bool), expected)
        np.testing.assert_allclose(result["scores"].numpy(), golden[f"scores_{case}"], rtol=1e-6)
        np.testing.assert_allclose(result["boxes"].numpy(), golden[f"boxes_{case}"], rtol=1e-6)
        scores = outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid()
        kept = (scores > floor)[0]
        encoded = MaskEncoding(logits[0, kept], (height, width), mask_threshold).wait()
        assert len(encoded) == len(expected)
        for one, mask in zip(encoded, expected, strict=True):
            np.testing.assert_array_equal(decode_mask(one.rle), mask)
            assert one.area == int(mask.sum())
        count += len(expected)
    assert count > 5


@pytest.mark.parametrize("variant", ["s0", "sam3"])
def test_end_to_end(variant: str, random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    """Image and prompt through processor, model and post-processing; the engine is given the processor's pixels."""
    golden = load("endtoend")
    prompts = golden["prompts"].tolist()
    checkpoint = random_checkpoints[variant]
    ids, mask = PromptTokenizer(checkpoint).encode(prompts)
    for prompt in range(len(prompts)):
        np.testing.assert_array_equal(ids[prompt], golden[f"{variant}_ids_{prompt}"])
        np.testing.assert_array_equal(mask[prompt], golden[f"{variant}_attention_mask_{prompt}"])
    settings = EngineSettings(device="cpu", precision="fp32", score_floor=0.2)
    segmenter = Segmenter.load(checkpoint, prompts, settings)
    present = 0
    for index in (0, 1):
        image_hwc = decode_png(golden[f"png_{index}"])
        size_hw = (image_hwc.shape[0], image_hwc.shape[1])
        (found,) = segmenter.segment([processor_pixels(image_hwc, checkpoint.image_size)], [size_hw])
        for prompt in range(len(prompts)):
            name = f"{variant}_{index}_{prompt}"
            presence = 1 / (1 + np.exp(-golden[f"presence_logit_{name}"][0]))
            assert found.presence[prompt] == pytest.approx(presence, abs=1e-4)
            expected = as_instances(golden[f"scores_{name}"], golden[f"boxes_{name}"], masks_of(golden, name))
            assert_same_instances(of_prompt(found, prompt), expected)
            present += len(expected)
    assert present > 5
