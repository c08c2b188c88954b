"""Makes the golden files: what transformers' documented processor and model give, on a machine that has torchvision.

    python3 tests/data/golden/make_processor_golden.py OUTDIR

Everything is made from fixed seeds, runs on the CPU in float32, and needs torch, torchvision, transformers, tokenizers
and Pillow; nothing of this package. Copy OUTDIR/*.npz beside this script.

* ``preparation.npz``: images (as PNG) and what the processor turns them into, as 0..255 levels.
* ``postprocess.npz``: random model outputs and what post_process_instance_segmentation makes of them.
* ``endtoend.npz``: image + prompt through processor, model and post-processing, for tiny checkpoints that
  ``tests/checkpoints.py`` makes the same everywhere.
"""

from __future__ import annotations

import io
import json
import platform
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
import transformers
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from checkpoints import PROMPTS, make_random_checkpoint
from transformers import AutoTokenizer
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3.processing_sam3 import Sam3Processor
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

# (height, width), the processor's size, and every how many-th row of the result is kept.
PREPARATION_CASES = (
    ((37, 53), 224, 1),
    ((90, 41), 240, 1),
    ((300, 211), 112, 1),
    ((240, 241), 240, 1),
    ((1, 9), 56, 1),
    ((430, 640), 224, 1),
    ((700, 1100), 1008, 8),
    ((1500, 1030), 1008, 8),
)


def synthetic_image(height: int, width: int, seed: int) -> np.ndarray:
    """A picture with smooth parts, hard edges and some noise, uint8 (height, width, 3)."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 127 + 0 * x], axis=-1)
    for _ in range(9):
        cy, cx = random.uniform(0, height), random.uniform(0, width)
        radius = random.uniform(0.08, 0.3) * max(height, width)
        color = random.randint(0, 256, 3)
        if random.rand() < 0.5:
            inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        else:
            inside = (abs(y - cy) < radius * 0.7) & (abs(x - cx) < radius)
        image[inside] = color
    noisy = slice(0, min(height, 64)), slice(0, min(width, 64))
    image[noisy] += random.randint(-60, 61, image[noisy].shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def png_bytes(image_hwc: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image_hwc).save(buffer, "PNG", optimize=True)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def versions() -> np.ndarray:
    return np.array(
        json.dumps(
            {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "transformers": transformers.__version__,
                "numpy": np.__version__,
                "pillow": PIL.__version__,
            }
        )
    )


def make_preparation() -> dict[str, np.ndarray]:
    arrays = {"versions": versions(), "num_cases": np.array(len(PREPARATION_CASES))}
    for case, ((height, width), size, row_step) in enumerate(PREPARATION_CASES):
        image_hwc = synthetic_image(height, width, seed=case)
        processor = Sam3ImageProcessor(size={"height": size, "width": size})
        inputs = processor(images=Image.fromarray(image_hwc), return_tensors="pt")
        pixels = inputs["pixel_values"][0].permute(1, 2, 0).numpy().astype(np.float64)
        mean, std = np.array(processor.image_mean), np.array(processor.image_std)
        levels = (pixels * std + mean) * 255
        assert np.abs(levels - np.rint(levels)).max() < 1e-2, "the processor no longer rounds to levels"
        arrays[f"png_{case}"] = png_bytes(image_hwc)
        arrays[f"size_{case}"] = np.array(size)
        arrays[f"row_step_{case}"] = np.array(row_step)
        arrays[f"levels_{case}"] = np.rint(levels).astype(np.uint8)[::row_step]
        arrays[f"original_size_{case}"] = np.array([int(v) for v in inputs["original_sizes"][0]])
        arrays[f"pixel_values_corner_{case}"] = inputs["pixel_values"][0, :, :4, :8].numpy().astype(np.float32)
        arrays["image_mean"], arrays["image_std"] = mean, std
    return arrays


def make_postprocess() -> dict[str, np.ndarray]:
    cases = (((40, 40), (61, 97)), ((32, 32), (20, 13)), ((48, 48), (48, 48)), ((24, 24), (131, 90)))
    arrays = {"versions": versions(), "num_cases": np.array(len(cases))}
    processor = Sam3ImageProcessor()
    for case, (mask_size, target_size) in enumerate(cases):
        random = np.random.RandomState(100 + case)
        coarse = random.normal(0, 3, (1, 8, 6, 6)).astype(np.float32)
        masks = torch.nn.functional.interpolate(torch.from_numpy(coarse), mask_size, mode="bicubic")
        masks = masks.half().float()
        corners = random.uniform(0, 1, (1, 8, 2, 2)).astype(np.float32)
        boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=-1).astype(np.float32)
        logits = random.normal(0, 2, (1, 8)).astype(np.float32)
        presence = random.normal(2, 1, (1, 1)).astype(np.float32)
        floor, mask_threshold = 0.2, 0.5 if case != 2 else 0.6
        outputs = SimpleNamespace(
            pred_logits=torch.from_numpy(logits),
            presence_logits=torch.from_numpy(presence),
            pred_boxes=torch.from_numpy(boxes),
            pred_masks=masks,
        )
        result = processor.post_process_instance_segmentation(
            outputs, threshold=floor, mask_threshold=mask_threshold, target_sizes=[target_size]
        )[0]
        arrays.update(
            {
                f"logits_{case}": logits,
                f"presence_{case}": presence,
                f"boxes_in_{case}": boxes,
                f"mask_logits_{case}": masks.numpy().astype(np.float16),
                f"target_size_{case}": np.array(target_size),
                f"thresholds_{case}": np.array([floor, mask_threshold]),
                **result_arrays(result, str(case)),
            }
        )
    return arrays


def make_endtoend() -> dict[str, np.ndarray]:
    arrays = {"versions": versions()}
    sizes = ((83, 121), (150, 94))
    for index, (height, width) in enumerate(sizes):
        arrays[f"png_{index}"] = png_bytes(synthetic_image(height, width, seed=50 + index))
    for variant, model_class in (("s0", Sam3LiteTextModel), ("sam3", Sam3Model)):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = make_random_checkpoint(Path(folder), variant)  # type: ignore[arg-type]
            model = model_class.from_pretrained(checkpoint, dtype=torch.float32).eval()
            processor = Sam3Processor(
                Sam3ImageProcessor.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
            )
            for index, (height, width) in enumerate(sizes):
                image = Image.fromarray(synthetic_image(height, width, seed=50 + index))
                for prompt, text in enumerate(PROMPTS):
                    inputs = processor(images=image, text=text, return_tensors="pt")
                    arrays[f"{variant}_ids_{prompt}"] = inputs["input_ids"][0].numpy()
                    arrays[f"{variant}_attention_mask_{prompt}"] = inputs["attention_mask"][0].numpy()
                    with torch.inference_mode():
                        outputs = model(**{name: value for name, value in inputs.items() if name in MODEL_INPUTS})
                    result = processor.post_process_instance_segmentation(
                        outputs, threshold=0.2, mask_threshold=0.5, target_sizes=[(height, width)]
                    )[0]
                    name = f"{variant}_{index}_{prompt}"
                    arrays[f"presence_logit_{name}"] = outputs.presence_logits[0].numpy()
                    arrays.update(result_arrays(result, name))
    arrays["prompts"] = np.array(PROMPTS)
    return arrays


MODEL_INPUTS = ("pixel_values", "input_ids", "attention_mask")


def result_arrays(result: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    masks = result["masks"].numpy().astype(bool)
    return {
        f"scores_{name}": result["scores"].numpy(),
        f"boxes_{name}": result["boxes"].numpy().astype(np.float32),
        f"mask_bits_{name}": np.packbits(masks.reshape(-1)),
        f"mask_shape_{name}": np.array(masks.shape),
    }


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_processor_golden.py OUTDIR")
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, make in (
        ("preparation", make_preparation),
        ("postprocess", make_postprocess),
        ("endtoend", make_endtoend),
    ):
        path = out / f"{name}.npz"
        np.savez_compressed(path, **make())
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
