"""The DETR encoder: image tokens meet the words of a prompt. Most of the time per prompt goes here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import (
    Affine,
    FeedForward,
    LayerNorm,
    attend,
    place,
    take_feed_forward,
    take_norm,
)
from sam3lt_ray.engine.prompt_attention import PromptAttention, fold_prompts
from sam3lt_ray.engine.text_bank import TextFeatures


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """One layer.

    The positions do not change, so what the projections make of them is a constant that is added after the product:
    W (x + p) = W x + W p. The key's bias is left out, a softmax over keys cannot see it; the value's bias has gone
    through the output projection into its bias.

    Attributes:
        projection: Weight of query, key and value in one, [3 C, C].
        position_terms: What positions and query bias add to queries and keys, [N, 2 C].
    """

    norm_before_self: LayerNorm
    projection: torch.Tensor
    position_terms: torch.Tensor
    out: Affine
    num_heads: int
    norm_before_text: LayerNorm
    text: PromptAttention
    norm_before_mlp: LayerNorm
    mlp: FeedForward

    def self_attention(self, hidden: torch.Tensor) -> torch.Tensor:
        """What is to be added to [batch, N, C] by self-attention."""
        width = hidden.shape[-1]
        projected = functional.linear(self.norm_before_self(hidden), self.projection)
        projected[..., : 2 * width] += self.position_terms
        query, key, value = projected.chunk(3, dim=-1)
        return self.out(attend(query, key, value, self.num_heads))


class DetrEncoder:
    """All layers, with the vocabulary folded in.

    Args:
        module: The model's ``detr_encoder``.
        text: The vocabulary.
        positions: Position encoding of image tokens, float32 [N, C].
        placement: Where to compute.
    """

    def __init__(self, module: Any, text: TextFeatures, positions: torch.Tensor, placement: Placement) -> None:
        self.layers = tuple(_take_layer(layer, text, positions, placement) for layer in module.layers)

    def start(self, tokens: torch.Tensor) -> torch.Tensor:
        """The first self-attention, which has not met a prompt yet: once per image. [B, N, C] to [B, N, C]."""
        return tokens + self.layers[0].self_attention(tokens)

    def ground(self, started: torch.Tensor, prompts: slice) -> torch.Tensor:
        """Everything after :meth:`start`, for some prompts of the vocabulary.

        Args:
            started: [B, N, C]; left unchanged.
            prompts: Which ones.

        Returns:
            [P, B, N, C], every image with every prompt.
        """
        num_images, num_tokens, width = started.shape
        first, *others = self.layers
        # The first queries are the same for every prompt too: expanded, not repeated.
        text = first.text.select(prompts)
        num_prompts = text.keys.shape[0]
        queries = first.norm_before_text(started).flatten(0, 1).expand(num_prompts, -1, -1)
        hidden = text(queries).add_(started.flatten(0, 1))
        hidden += first.mlp(first.norm_before_mlp(hidden))
        for layer in others:
            by_pair = hidden.view(num_prompts * num_images, num_tokens, width)
            by_pair += layer.self_attention(by_pair)
            hidden += layer.text.select(prompts)(layer.norm_before_text(hidden))
            hidden += layer.mlp(layer.norm_before_mlp(hidden))
        return hidden.view(num_prompts, num_images, num_tokens, width)


def _take_layer(module: Any, text: TextFeatures, positions: torch.Tensor, placement: Placement) -> EncoderLayer:
    attention = module.self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    weights = [place(part.weight, placement, torch.float32) for part in parts]
    query_bias, value_bias, out_bias = (
        place(part.bias, placement, torch.float32) for part in (attention.q_proj, attention.v_proj, attention.o_proj)
    )
    out_weight = place(attention.o_proj.weight, placement, torch.float32)
    terms = torch.cat([functional.linear(positions, weights[0], query_bias), positions @ weights[1].t()], dim=-1)
    return EncoderLayer(
        norm_before_self=take_norm(module.layer_norm1, placement),
        projection=place(torch.cat(weights), placement),
        position_terms=place(terms, placement),
        out=Affine(place(out_weight, placement), place(out_bias + out_weight @ value_bias, placement)),
        num_heads=attention.num_attention_heads,
        norm_before_text=take_norm(module.layer_norm2, placement),
        text=fold_prompts(module.cross_attn, text, placement),
        norm_before_mlp=take_norm(module.layer_norm3, placement),
        mlp=take_feed_forward(module.mlp, placement),
    )
