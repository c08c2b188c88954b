"""The DETR decoder: queries become candidate instances, a presence token says whether the prompt is there at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional

from sam3lt_ray.engine.boxes import BoxGeometry, inverse_sigmoid, take_box_geometry, to_corners
from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import (
    Affine,
    FeedForward,
    LayerNorm,
    attend,
    place,
    take_affine,
    take_feed_forward,
    take_norm,
    take_perceptron,
)
from sam3lt_ray.engine.prompt_attention import PromptAttention, fold_prompts
from sam3lt_ray.engine.text_bank import TextFeatures

_MOST_PRESENCE_LOGIT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the decoder says about n = P x B (prompt, image) pairs, prompt by prompt. All float32.

    Attributes:
        queries: Normalised query features, [n, Q, C].
        boxes_xyxy: Shares of the image, [n, Q, 4].
        presence: Probability that the prompt is in the image, [n].
    """

    queries: torch.Tensor
    boxes_xyxy: torch.Tensor
    presence: torch.Tensor


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One layer; position terms, key and value biases are folded as in the encoder.

    Attributes:
        self_query_key: Query and key in one, [2 C, C].
        vision_key_value: Key and value in one, [2 C, C].
        vision_key_terms: What positions add to the keys, [N, C].
    """

    num_heads: int
    self_query_key: Affine
    self_value: Affine
    self_out: Affine
    norm_after_self: LayerNorm
    text: PromptAttention
    norm_after_text: LayerNorm
    vision_query: Affine
    vision_key_value: torch.Tensor
    vision_key_terms: torch.Tensor
    vision_out: Affine
    norm_after_vision: LayerNorm
    mlp: FeedForward
    norm_after_mlp: LayerNorm

    def meet_each_other(self, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Self-attention of [n, Q + 1, C]."""
        query, key = self.self_query_key(hidden + positions).chunk(2, dim=-1)
        mixed = attend(query, key, self.self_value(hidden), self.num_heads)
        return self.norm_after_self(hidden + self.self_out(mixed))

    def meet_text(self, hidden: torch.Tensor, positions: torch.Tensor, text: PromptAttention) -> torch.Tensor:
        """Cross-attention of [n, Q + 1, C] to the words; n is a multiple of the prompts in ``text``."""
        queries = (hidden + positions).view(text.keys.shape[0], -1, hidden.shape[-1])
        return self.norm_after_text(hidden + text(queries).view_as(hidden))

    def meet_image(
        self, hidden: torch.Tensor, positions: torch.Tensor, memory: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Cross-attention of [n, Q + 1, C] to the image tokens [n, N, C], then the MLP."""
        key, value = functional.linear(memory, self.vision_key_value).chunk(2, dim=-1)
        key += self.vision_key_terms
        mixed = attend(self.vision_query(hidden + positions), key, value, self.num_heads, bias)
        hidden = self.norm_after_vision(hidden + self.vision_out(mixed))
        return self.norm_after_mlp(hidden + self.mlp(hidden))


class DetrDecoder:
    """All layers, with the vocabulary folded in.

    Up to its first look at the image the decoder knows only its own queries and the prompt: that much is computed here,
    once per vocabulary, together with the first boxes' bias.

    Attributes:
        num_queries: Candidates per prompt.

    Args:
        module: The model's ``detr_decoder``.
        text: The vocabulary.
        positions: Position encoding of image tokens, float32 [N, C].
        grid_hw: Rows and columns of image tokens.
        placement: Where to compute.
    """

    def __init__(
        self,
        module: Any,
        text: TextFeatures,
        positions: torch.Tensor,
        grid_hw: tuple[int, int],
        placement: Placement,
    ) -> None:
        in_float32 = Placement(placement.device, torch.float32)
        self._layers = tuple(_take_layer(layer, text, positions, placement) for layer in module.layers)
        self._geometry: BoxGeometry = take_box_geometry(module, grid_hw, placement)
        self._output_norm = take_norm(module.output_layer_norm, placement)
        self._box_head = take_perceptron(module.box_head, placement)
        self._presence_norm = take_norm(module.presence_layer_norm, placement)
        self._presence_head = take_perceptron(module.presence_head, placement)
        self._dtype = placement.dtype

        queries = place(module.query_embed.weight, in_float32)
        self.num_queries: int = queries.shape[0]
        self._first_boxes = place(module.reference_points.weight, in_float32).sigmoid()[None]
        first_positions = self._geometry.query_positions(self._first_boxes)
        self._first_positions = first_positions.to(placement.dtype)
        self._first_bias = self._geometry.attention_bias(self._first_boxes, placement.dtype)
        first = _take_layer(module.layers[0], text, positions, in_float32)
        hidden = torch.cat([place(module.presence_token.weight, in_float32), queries])[None]
        hidden = first.meet_each_other(hidden, first_positions).expand(text.tokens.shape[0], -1, -1)
        self._start = first.meet_text(hidden, first_positions, first.text).to(placement.dtype)

    def find(self, memory: torch.Tensor, prompts: slice) -> Candidates:
        """Runs the decoder for some prompts of the vocabulary.

        Args:
            memory: Output of the encoder, [P, B, N, C].
            prompts: Which ones these are.
        """
        num_images = memory.shape[1]
        by_pair = memory.flatten(0, 1)
        hidden = self._start[prompts].repeat_interleave(num_images, dim=0)
        boxes = self._first_boxes.expand(by_pair.shape[0], -1, -1)
        positions, bias = self._first_positions, self._first_bias
        normed = hidden[:, 1:].float()
        for number, layer in enumerate(self._layers):
            if number > 0:
                positions = self._geometry.query_positions(boxes).to(self._dtype)
                bias = self._geometry.attention_bias(boxes, self._dtype)
                hidden = layer.meet_each_other(hidden, positions)
                hidden = layer.meet_text(hidden, positions, layer.text.select(prompts))
            hidden = layer.meet_image(hidden, positions, by_pair, bias)
            normed = self._output_norm.in_float32(hidden[:, 1:])
            boxes = (self._box_head(normed) + inverse_sigmoid(boxes)).sigmoid()
        presence = self._presence_head(self._presence_norm.in_float32(hidden[:, 0]))[:, 0]
        presence = presence.clamp(-_MOST_PRESENCE_LOGIT, _MOST_PRESENCE_LOGIT).sigmoid()
        return Candidates(normed, to_corners(boxes), presence)


def _take_layer(module: Any, text: TextFeatures, positions: torch.Tensor, placement: Placement) -> DecoderLayer:
    own, vision = module.self_attn, module.vision_cross_attn
    weight = [place(part.weight, placement, torch.float32) for part in (own.q_proj, own.k_proj)]
    query_bias = place(own.q_proj.bias, placement, torch.float32)
    key_weight = place(vision.k_proj.weight, placement, torch.float32)
    return DecoderLayer(
        num_heads=own.num_attention_heads,
        self_query_key=Affine(
            place(torch.cat(weight), placement), place(torch.cat([query_bias, torch.zeros_like(query_bias)]), placement)
        ),
        self_value=Affine(place(own.v_proj.weight, placement), None),
        self_out=_out_with_value_bias(own, placement),
        norm_after_self=take_norm(module.self_attn_layer_norm, placement),
        text=fold_prompts(module.text_cross_attn, text, placement),
        norm_after_text=take_norm(module.text_cross_attn_layer_norm, placement),
        vision_query=take_affine(vision.q_proj, placement),
        vision_key_value=place(
            torch.cat([key_weight, place(vision.v_proj.weight, placement, torch.float32)]), placement
        ),
        vision_key_terms=place(positions @ key_weight.t(), placement),
        vision_out=_out_with_value_bias(vision, placement),
        norm_after_vision=take_norm(module.vision_cross_attn_layer_norm, placement),
        mlp=take_feed_forward(module.mlp, placement),
        norm_after_mlp=take_norm(module.mlp_layer_norm, placement),
    )


def _out_with_value_bias(attention: Any, placement: Placement) -> Affine:
    """The output projection, with the value's bias (attention weights sum to one) taken through it."""
    weight = place(attention.o_proj.weight, placement, torch.float32)
    bias = place(attention.o_proj.bias, placement, torch.float32)
    value_bias = place(attention.v_proj.bias, placement, torch.float32)
    return Affine(place(weight, placement), place(bias + weight @ value_bias, placement))
