"""The DETR encoder: image tokens meet the words of a prompt. Most of the time per prompt goes here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import (
    Affine,
    FeedForward,
    place,
    take_feed_forward,
    take_norm,
    take_out_projection,
)
from sam3lt_ray.engine.ops.normalization import LayerNorm, add_norm_place, add_place
from sam3lt_ray.engine.ops.token_attention import BASE_2, attend_tokens
from sam3lt_ray.engine.ops.word_attention import attend_words
from sam3lt_ray.engine.pairs import Pairs
from sam3lt_ray.engine.prompt_attention import PromptAttention, fold_prompts
from sam3lt_ray.engine.text_bank import TextFeatures


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """One layer.

    The key's bias is left out, a softmax over keys cannot see it; the value's bias has gone through the output
    projection into its bias; the queries' scale is part of their weights.

    Attributes:
        query_key: Of tokens with positions, C to 2 C.
        value: Of tokens without, C to C.
    """

    norm_before_self: LayerNorm
    query_key: Affine
    value: Affine
    out: Affine
    num_heads: int
    norm_before_text: LayerNorm
    text: PromptAttention
    norm_before_mlp: LayerNorm
    mlp: FeedForward

    def self_attention(self, normed: torch.Tensor, placed: torch.Tensor) -> torch.Tensor:
        """What is to be added by self-attention, from normalised tokens without and with positions, [n, N, C]."""
        query, key = self.query_key(placed).chunk(2, dim=-1)
        return self.out(attend_tokens(query, key, self.value(normed), self.num_heads))


@dataclass(frozen=True, slots=True)
class Memory:
    """Image tokens that have met the prompt, [n, N, C].

    Attributes:
        tokens: Without positions.
        placed: With them.
    """

    tokens: torch.Tensor
    placed: torch.Tensor


class DetrEncoder:
    """All layers, with the vocabulary folded in.

    Args:
        module: The model's ``detr_encoder``.
        text: The vocabulary.
        positions: Position encoding of image tokens, float32 [N, C].
        placement: Where to compute.
    """

    def __init__(self, module: Any, text: TextFeatures, positions: torch.Tensor, placement: Placement) -> None:
        self.layers = tuple(_take_layer(layer, text, placement) for layer in module.layers)
        self._positions = positions

    def start(self, tokens: torch.Tensor) -> torch.Tensor:
        """The first self-attention, which has not met a prompt yet: once per image. [B, N, C] to [B, N, C]."""
        first = self.layers[0]
        _, normed, placed = add_norm_place(tokens, None, first.norm_before_self, self._positions)
        return tokens + first.self_attention(normed, placed)

    def ground(self, started: torch.Tensor, pairs: Pairs) -> Memory:
        """Everything after :meth:`start`.

        Args:
            started: Of a batch of images, [B, N, C]; left unchanged.
            pairs: Which of them meet which prompts.

        Returns:
            Of n pairs.
        """
        x, delta = started, None
        for number, layer in enumerate(self.layers):
            if number > 0:
                x, normed, placed = add_norm_place(x, delta, layer.norm_before_self, self._positions)
                delta = layer.self_attention(normed, placed)
            x, normed = attend_words(x, delta, pairs, layer.norm_before_text, layer.text, layer.norm_before_mlp)
            delta = layer.mlp(normed)
        assert delta is not None  # there is at least one layer
        return Memory(*add_place(x, delta, self._positions))


def _take_layer(module: Any, text: TextFeatures, placement: Placement) -> EncoderLayer:
    attention = module.self_attn
    scale = attention.scaling * BASE_2
    query_weight, query_bias, key_weight = (
        place(tensor, placement, torch.float32)
        for tensor in (attention.q_proj.weight, attention.q_proj.bias, attention.k_proj.weight)
    )
    return EncoderLayer(
        norm_before_self=take_norm(module.layer_norm1, placement),
        query_key=Affine(
            place(torch.cat([query_weight * scale, key_weight]), placement),
            place(torch.cat([query_bias * scale, torch.zeros_like(query_bias)]), placement),
        ),
        value=Affine(place(attention.v_proj.weight, placement), None),
        out=take_out_projection(attention, placement),
        num_heads=attention.num_attention_heads,
        norm_before_text=take_norm(module.layer_norm2, placement),
        text=fold_prompts(module.cross_attn, text, placement),
        norm_before_mlp=take_norm(module.layer_norm3, placement),
        mlp=take_feed_forward(module.mlp, placement),
    )
