"""Forced answers: random weights have no opinion, so the rule says what is in an image, for all contenders alike.

The model's own scores and masks are computed all the same; the forced values are added to zero times the computed ones,
so that no computation can be left out.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from sam3lt_ray.benchmark.workloads import INSTANCES, Workload, present_prompts

SCORE: Final = 0.9
_SURE_LOGIT: Final = 30.0  # its sigmoid is 1 in float32
_STEEPNESS: Final = 12.0


class ForcedAnswers:
    """What every contender finds in every image of a workload.

    Attributes:
        queries: The queries that carry the instances of a present prompt, int64 [INSTANCES].
        present: Whether a prompt is present, bool [V], on the CPU.
        scores: Final scores, float32 [V, Q].

    Args:
        workload: Which prompts are present.
        num_queries: Q, of the model.
        device: Where the values are needed.
    """

    def __init__(self, workload: Workload, num_queries: int, device: torch.device) -> None:
        if num_queries < INSTANCES:
            raise ValueError(f"the model has {num_queries} queries; the benchmark needs at least {INSTANCES}")
        queries = [(2 * number + 1) * num_queries // (2 * INSTANCES) for number in range(INSTANCES)]
        self.queries = torch.tensor(queries, device=device)
        self.present = torch.zeros(workload.num_prompts, dtype=torch.bool)
        self.present[present_prompts(workload.num_prompts, workload.num_present)] = True
        self.scores = torch.zeros(workload.num_prompts, num_queries, device=device)
        self.scores[:, self.queries] = SCORE * self.present.to(device).float()[:, None]
        self._logits = torch.full_like(self.scores, -_SURE_LOGIT)
        self._logits[self.scores > 0] = math.log(SCORE / (1 - SCORE))
        self._fields: dict[tuple[int, int], torch.Tensor] = {}

    def logits(self, computed: torch.Tensor, prompts: slice) -> torch.Tensor:
        """Instead of transformers' ``pred_logits`` [P, Q]: rows beyond the vocabulary (padding) are absent. float32."""
        some = self._logits[prompts]
        padding = some.new_full((len(computed) - len(some), some.shape[1]), -_SURE_LOGIT)
        return torch.cat([some, padding]) + 0 * computed.float()

    def presence_logits(self, computed: torch.Tensor) -> torch.Tensor:
        """Instead of transformers' ``presence_logits``: sure, the score says the rest. float32."""
        return _SURE_LOGIT + 0 * computed.float()

    def mask_logits(self, computed: torch.Tensor) -> torch.Tensor:
        """Instead of the computed mask logits [..., INSTANCES, H, W]: the same shapes for every pair. float32."""
        height, width = computed.shape[-2:]
        if (height, width) not in self._fields:
            self._fields[height, width] = _shape_fields(height, width, computed.device)
        return self._fields[height, width] + 0 * computed.float()

    def put_masks(self, pred_masks: torch.Tensor) -> torch.Tensor:
        """Transformers' ``pred_masks`` [P, Q, H, W] in float32, with the forced ones at the instances' queries.

        Given float32 it is overwritten.
        """
        masks = pred_masks.float()
        masks[:, self.queries] = self.mask_logits(masks[:, self.queries])
        return masks


def _shape_fields(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Wavy ellipses side by side, positive inside: float32 [INSTANCES, height, width]."""
    y = ((torch.arange(height, device=device).float() + 0.5) / height)[None, :, None]
    x = ((torch.arange(width, device=device).float() + 0.5) / width)[None, None, :]
    number = torch.arange(INSTANCES, device=device).float()[:, None, None]
    across = (x - (number + 0.5) / INSTANCES) * INSTANCES / 0.42
    down = (y - 0.35 - 0.3 * (number % 2)) / 0.28
    waves = 1 + 0.12 * torch.sin((5 + number) * torch.atan2(down, across))
    return _STEEPNESS * (waves - torch.hypot(across, down))
