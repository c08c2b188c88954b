"""Memory of the GPU: too little is made do with, and it does not grow."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
import torch

from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from tests.engine_reference import smooth_image

WORDS = [f"{color} {shape}" for color in ("red", "blue", "green") for shape in ("circle", "star", "ring", "square")]


@pytest.fixture
def small_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 4e8) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("small_memory")
def test_less_is_asked_for_when_memory_is_short(caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = resolve_checkpoint("demo")
    images = [smooth_image(checkpoint.image_size, seed) for seed in range(64)]

    def label(prompts_per_batch: int) -> Segmenter:
        settings = EngineSettings(
            device="cuda", precision="bf16", images_per_batch=64, prompts_per_batch=prompts_per_batch
        )
        segmenter = Segmenter.load(checkpoint, WORDS, settings)
        found.append(segmenter.segment(images, [(64, 96)] * len(images)))
        return segmenter

    found: list[object] = []
    with caplog.at_level(logging.WARNING, logger="sam3lt_ray"):
        greedy = label(768)
    assert greedy.memory_halvings > 0
    assert greedy.at_once.prompts < 768
    assert "compute.prompts_per_batch" in caplog.text
    assert label(16).memory_halvings == 0
    assert len(found) == 2


def test_memory_does_not_grow_over_1000_images() -> None:
    checkpoint = resolve_checkpoint("demo")
    settings = EngineSettings(device="cuda", precision="bf16", images_per_batch=8, score_floor=0.01)
    segmenter = Segmenter.load(checkpoint, WORDS, settings)
    images = [smooth_image(checkpoint.image_size, seed) for seed in range(8)]
    sizes = [[(64 + 16 * (turn % 5), 96 + 8 * image) for image in range(8)] for turn in range(10)]
    peaks = []
    for turn in range(125):
        segmenter.segment(images, sizes[turn % 10])
        if turn in (24, 124):
            gc.collect()
            peaks.append((torch.cuda.max_memory_reserved(), torch.cuda.memory_allocated()))
    assert peaks[0] == peaks[1]
