"""How many images and pairs at once: time and memory by ``compute.images_per_batch`` and ``compute.prompts_per_batch``.

    python -m tests.benchmarks.bench_batches [--quick] [--json FILE]

The full-size model with random weights and forced answers, JPEGs of 1280 x 960 in and run lengths out, as in ``sam3lt
bench``. The defaults in ``sam3lt_ray/engine/devices.py`` come from this table. ``--quick``, or a machine without a GPU,
takes the demo checkpoint on whatever there is.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from sam3lt_ray.benchmark.answers import ForcedAnswers
from sam3lt_ray.benchmark.forcing import EngineSeam
from sam3lt_ray.benchmark.photos import make_photo
from sam3lt_ray.benchmark.random_checkpoint import make_random_checkpoint
from sam3lt_ray.benchmark.workloads import Workload, make_prompts, usual_present
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.records import EncodedImage, Unit, UnitRange
from sam3lt_ray.stages.label import ImageLabeler
from sam3lt_ray.vocabulary.loading import load_vocabulary
from tests.benchmarks.measuring import finish, load_now, print_table, read_options, spread

REPEATS = 3
# Prompts: images in the unit, images at once, pairs at once.
ON_GPU: dict[int, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    80: (24, (8,), (16, 32, 64, 128)),
    365: (8, (8,), (32, 64, 128)),
    10: (48, (8, 16), (32, 64, 128)),
    1: (64, (4, 8, 16, 32), (64,)),
}
ON_CPU: dict[int, tuple[int, tuple[int, ...], tuple[int, ...]]] = {20: (4, (1, 4), (4, 8, 16))}


def measure(labeler: ImageLabeler, segmenter: Segmenter, images: list[bytes]) -> dict[str, Any]:
    """Milliseconds per image, and gigabytes of tensors at most, with the segmenter's batch sizes as they are."""
    encoded = tuple(EncodedImage(index, f"{index}.jpg", data) for index, data in enumerate(images))
    unit = Unit("batches", UnitRange(0, len(encoded), is_last=True), encoded)
    on_gpu = torch.device(segmenter.device).type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    labeler.label_unit(unit)
    walls = [1000 * labeler.label_unit(unit)[1].wall_s / len(images) for _ in range(REPEATS)]
    return {
        "ms_per_image": spread(walls).to_json(),
        "text": spread(walls).text(),
        "tensors_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "held_gb": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else None,
    }


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    on_gpu = torch.cuda.is_available()
    rows, figures = [], []
    with tempfile.TemporaryDirectory() as scratch:
        small = options.quick or not on_gpu
        name = "demo" if small else str(make_random_checkpoint(Path(scratch) / "checkpoint", "full"))
        photos = [make_photo("one size", index) for index in range(4 if small else 32)]
        for num_prompts, (num_images, image_counts, pair_counts) in (ON_CPU if small else ON_GPU).items():
            vocabulary = load_vocabulary(make_prompts(num_prompts))
            prompts = [prompt.text for prompt in vocabulary.prompts]
            segmenter = Segmenter.load(resolve_checkpoint(name), prompts, EngineSettings())
            workload = Workload(num_prompts, usual_present(num_prompts))
            EngineSeam(segmenter, ForcedAnswers(workload, segmenter.num_queries, torch.device(segmenter.device)))
            labeler = ImageLabeler(
                segmenter,
                vocabulary,
                merge_iou=0.7,
                max_pixels=200_000_000,
                decode_threads=max(1, len(os.sched_getaffinity(0)) - 1),
            )
            images = [photos[index % len(photos)] for index in range(num_images)]
            for at_once in image_counts:
                for pairs in pair_counts:
                    segmenter.at_once.images, segmenter.at_once.prompts = at_once, pairs
                    figure = measure(labeler, segmenter, images)
                    memory = [f"{figure[key]:.1f}" if on_gpu else "" for key in ("tensors_gb", "held_gb")]
                    rows.append([str(num_prompts), str(at_once), str(pairs), figure["text"], *memory])
                    figures.append({"prompts": num_prompts, "images_at_once": at_once, "pairs": pairs, **figure})
                    print(rows[-1], flush=True)
    headers = ["prompts", "images at once", "pairs at once", "ms/image", "GB of tensors", "GB held"]
    print_table(headers, rows)
    finish(options, {"batches": figures}, load_before)


if __name__ == "__main__":
    main()
