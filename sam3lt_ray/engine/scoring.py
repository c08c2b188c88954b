"""Scores: how well a query matches the prompt, times whether the prompt is there. All in float32."""

from __future__ import annotations

from typing import Any, Final

import torch

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import take_norm, take_perceptron
from sam3lt_ray.engine.text_bank import TextFeatures

_MOST_LOGIT: Final = 12.0


class Scoring:
    """Dot products of queries with the pooled prompt; everything on the prompt's side is computed once.

    Args:
        module: The model's ``dot_product_scoring``.
        text: The vocabulary.
        placement: Where to compute.
    """

    def __init__(self, module: Any, text: TextFeatures, placement: Placement) -> None:
        device = placement.device
        tokens = take_norm(module.text_mlp_out_norm, placement)(
            take_perceptron(module.text_mlp, placement)(text.tokens) + text.tokens
        )
        valid = text.valid[..., None].float()
        pooled = (tokens * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        projected = torch.nn.functional.linear(
            pooled, module.text_proj.weight.detach().to(device), module.text_proj.bias.detach().to(device)
        )
        projected = projected * module.scale
        # The queries' projection, carried over to the prompts: (W q + b) . t = q . (W^T t) + b . t
        self._directions = (projected @ module.query_proj.weight.detach().to(device))[..., None]
        self._offsets = (projected @ module.query_proj.bias.detach().to(device))[:, None, None]

    def __call__(self, queries: torch.Tensor, presence: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Final scores in [0, 1].

        Args:
            queries: Normalised query features of n pairs, float32 [n, Q, C].
            presence: Probabilities, [n].
            prompts: Their prompts, int [n].

        Returns:
            float32 [n, Q].
        """
        logits = torch.baddbmm(self._offsets[prompts], queries, self._directions[prompts])[..., 0]
        return logits.clamp(-_MOST_LOGIT, _MOST_LOGIT).sigmoid() * presence[:, None]
