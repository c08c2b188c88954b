"""The one place that reaches into the engine: where its answers are forced.

The engine keeps the model's parts in ``_parts``. Wrapped are how scores are computed (``grounding._scoring``) and how
mask logits are computed (``mask_head.logits``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sam3lt_ray.benchmark.answers import ForcedAnswers
from sam3lt_ray.benchmark.workloads import INSTANCES
from sam3lt_ray.engine.image_batch import ModelParts
from sam3lt_ray.engine.segmenter import Segmenter


class EngineSeam:
    """Forces the answers of a loaded segmenter; the answers can be exchanged between workloads."""

    def __init__(self, segmenter: Segmenter, answers: ForcedAnswers) -> None:
        self._parts: ModelParts = segmenter._parts
        self._answers = answers
        self._scores = answers.scores.clone()
        grounding: Any = self._parts.grounding
        mask_head: Any = self._parts.mask_head
        grounding._scoring = self._forced_scores(grounding._scoring)
        mask_head.logits = self._forced_masks(mask_head.logits)

    def force(self, answers: ForcedAnswers) -> None:
        """Other answers for the same vocabulary; in place, so that a captured graph sees them too."""
        self._scores.copy_(answers.scores)

    def _forced_scores(self, compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def forced(queries: torch.Tensor, presence: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
            return self._scores[prompts] + 0 * compute(queries, presence, prompts)

        return forced

    def _forced_masks(self, compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def forced(*arguments: Any, **options: Any) -> torch.Tensor:
            computed = compute(*arguments, **options)
            shape = computed.shape
            rows = shape[:-2].numel()
            if rows % INSTANCES:
                raise RuntimeError(f"the engine made {rows} masks; expected {INSTANCES} for every present pair")
            return self._answers.mask_logits(computed.reshape(-1, INSTANCES, *shape[-2:])).view(shape)

        return forced
