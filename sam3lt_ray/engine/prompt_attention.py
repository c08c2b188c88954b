"""Cross-attention to a prompt's few tokens, folded.

An attention from N image tokens to T words costs two C x C products per image token if done as written. With T x heads
smaller than C it is cheaper to carry the projections over to the words, once per vocabulary:

    logit[h, t] = (Wq_h x + bq_h) . k_ht * s     = x . (s Wq_h^T k_ht) + s bq_h . k_ht
    output      = Wo (sum_t weight_ht v_ht) + bo = sum_ht weight_ht (Wo_h v_ht) + bo

so that per image token only C x (T x heads) remain on either side. bo is added to the first head's values, whose
weights sum to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.text_bank import TextFeatures


@dataclass(frozen=True, slots=True)
class PromptAttention:
    """One cross-attention layer, folded with the tokens of P prompts.

    Attributes:
        keys: [P, C, T * heads], token by token.
        key_bias: [P, 1, T * heads]; minus infinity at padding.
        values: [P, T * heads, C].
        num_heads: Attention heads.
    """

    keys: torch.Tensor
    key_bias: torch.Tensor
    values: torch.Tensor
    num_heads: int

    def select(self, prompts: torch.Tensor) -> PromptAttention:
        """The same layer for the prompts of n pairs, int [n]."""
        return PromptAttention(self.keys[prompts], self.key_bias[prompts], self.values[prompts], self.num_heads)

    def __call__(self, queries: torch.Tensor) -> torch.Tensor:
        """[P, n, C] to [P, n, C]: row p attends to prompt p."""
        logits = torch.baddbmm(self.key_bias, queries, self.keys)
        weights = torch.unflatten(logits, -1, (-1, self.num_heads)).softmax(dim=-2).flatten(-2)
        return torch.bmm(weights, self.values)


class PromptAttentions:
    """Several layers, chosen from together.

    Args:
        layers: Folded with the same prompts, of the same shape; there may be none.
    """

    def __init__(self, layers: Sequence[PromptAttention]) -> None:
        # The layers themselves are let go: stacked they are there a second time, 320 MB with 1000 prompts.
        self._num_heads = layers[0].num_heads if layers else 0
        self._parts = tuple(
            torch.stack([getattr(layer, name) for layer in layers], dim=1)
            for name in ("keys", "key_bias", "values")
            if layers
        )

    def select(self, prompts: torch.Tensor) -> list[PromptAttention]:
        """Each layer for the prompts of n pairs, int [n]."""
        parts = (part[prompts].unbind(1) for part in self._parts)
        return [PromptAttention(keys, bias, values, self._num_heads) for keys, bias, values in zip(*parts, strict=True)]


def fold_prompts(attention: Any, text: TextFeatures, placement: Placement) -> PromptAttention:
    """Folds a transformers attention module with the vocabulary.

    Args:
        attention: Module with q_proj, k_proj, v_proj, o_proj, num_attention_heads and scaling.
        text: The vocabulary.
        placement: Where the result is wanted; the folding itself is done in float32.
    """
    heads = attention.num_attention_heads
    device = text.tokens.device

    def split(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.unflatten(tensor, dim, (heads, -1))

    def weights(projection: Any) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias = projection.weight.detach().to(device), projection.bias.detach().to(device)
        return weight, bias

    query_weight, query_bias = weights(attention.q_proj)
    key_weight, key_bias = weights(attention.k_proj)
    value_weight, value_bias = weights(attention.v_proj)
    out_weight, out_bias = weights(attention.o_proj)
    keys = split(linear(text.tokens, key_weight, key_bias), -1)
    values = split(linear(text.tokens, value_weight, value_bias), -1)

    folded_keys = torch.einsum("hdc,pthd->pcth", split(query_weight, 0), keys)
    bias = torch.einsum("hd,pthd->pth", split(query_bias, 0), keys)
    folded_values = torch.einsum("chd,pthd->pthc", split(out_weight, 1), values)
    folded_values[:, :, 0] += out_bias
    bias = (bias * attention.scaling).masked_fill(~text.valid[..., None], -torch.inf)

    def placed(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(placement.device, placement.dtype).contiguous()

    return PromptAttention(
        keys=placed((folded_keys * attention.scaling).flatten(2)),
        key_bias=placed(bias.flatten(1)[:, None]),
        values=placed(folded_values.flatten(1, 2)),
        num_heads=heads,
    )
