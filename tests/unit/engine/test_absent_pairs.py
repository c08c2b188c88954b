"""What is absent costs no masks: only pairs with a score above the floor reach the mask head, with those queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from tests.checkpoints import IMAGE_SIZE, NUM_QUERIES, PROMPTS
from tests.engine_reference import random_checkpoints, smooth_image  # noqa: F401  (one is a fixture)


class Counted:
    """A mask head, or a vision encoder, that counts what reaches it."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self.num_pairs = self.num_queries = self.num_images = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def logits(
        self, memory: torch.Tensor, prompts: torch.Tensor, parts: Any, images: torch.Tensor, queries: Any
    ) -> Any:
        self.num_pairs += len(memory)
        self.num_queries = max(self.num_queries, queries.shape[1])
        return self._plain.logits(memory, prompts, parts, images, queries)

    def fine_features(self, backbone: torch.Tensor) -> Any:
        self.num_images += len(backbone)
        return self._plain.fine_features(backbone)


@pytest.mark.parametrize("present", [{}, {(1, 2): [3]}, {(0, 0): [1, 4], (0, 5): [0, 2, 9], (2, 5): [7]}])
def test_only_kept_queries_of_present_pairs_reach_the_mask_head(
    random_checkpoints: dict[str, Checkpoint],  # noqa: F811
    present: dict[tuple[int, int], list[int]],
) -> None:
    settings = EngineSettings(device="cpu", precision="fp32", score_floor=0.2, images_per_batch=2, prompts_per_batch=5)
    segmenter = Segmenter.load(random_checkpoints["s0"], PROMPTS, settings)
    scores = torch.full((3, len(PROMPTS), NUM_QUERIES), 0.2)  # of all pairs, in the order in which they are grounded
    for (image, prompt), queries in present.items():
        scores[image, prompt, queries] = 0.21
    waiting = scores.flatten(0, 1)
    ground = segmenter._parts.grounding.ground

    def ground_with_known_scores(started: torch.Tensor, pairs: Any) -> Any:
        nonlocal waiting
        some, waiting = waiting[: len(pairs.prompts)], waiting[len(pairs.prompts) :]
        return replace(ground(started, pairs), scores=some)

    segmenter._parts.grounding.ground = ground_with_known_scores  # type: ignore[method-assign]
    head, vision = Counted(segmenter._parts.mask_head), Counted(segmenter._parts.vision)
    segmenter._parts = replace(segmenter._parts, mask_head=head, vision=vision)
    found = segmenter.segment([smooth_image(IMAGE_SIZE, seed) for seed in range(3)], [(40, 60), (60, 40), (50, 70)])
    assert len(waiting) == 0
    assert head.num_pairs == len(present)
    assert head.num_queries == max((len(queries) for queries in present.values()), default=0)
    assert vision.num_images == len({image for image, _ in present})
    detections = {(image, one.prompt) for image, of_image in enumerate(found) for one in of_image.detections}
    assert detections == set(present)
    assert sum(len(of_image.detections) for of_image in found) == sum(len(queries) for queries in present.values())
    assert not any(np.any(of_image.saturated) for of_image in found)
