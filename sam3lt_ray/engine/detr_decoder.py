"""The DETR decoder: queries become candidate instances, a presence token says whether the prompt is there at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from sam3lt_ray.engine.boxes import BoxGeometry, take_box_geometry, to_corners
from sam3lt_ray.engine.detr_encoder import Memory
from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import (
    Affine,
    FeedForward,
    place,
    take_feed_forward,
    take_norm,
    take_out_projection,
    take_perceptron,
)
from sam3lt_ray.engine.ops.box_attention import attend_boxes
from sam3lt_ray.engine.ops.box_head import box_deltas, make_box_head
from sam3lt_ray.engine.ops.normalization import LayerNorm, add_norm, add_norm_place
from sam3lt_ray.engine.ops.token_attention import BASE_2, attend
from sam3lt_ray.engine.pairs import Pairs
from sam3lt_ray.engine.prompt_attention import PromptAttention, PromptAttentions, fold_prompts
from sam3lt_ray.engine.text_bank import TextFeatures

_MOST_PRESENCE_LOGIT: Final = 10.0

_Placed = tuple[torch.Tensor, torch.Tensor]  # queries without positions and with them


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the decoder says about n (image, prompt) pairs. All float32.

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
    """One layer; key and value biases are folded as in the encoder.

    Attributes:
        self_query_key: Query and key in one, [2 C, C].
        vision_query: With the scale of :func:`~sam3lt_ray.engine.ops.box_attention.attend_boxes`.
    """

    num_heads: int
    self_query_key: Affine
    self_value: Affine
    self_out: Affine
    norm_after_self: LayerNorm
    norm_after_text: LayerNorm
    vision_query: Affine
    vision_out: Affine
    norm_after_vision: LayerNorm
    mlp: FeedForward
    norm_after_mlp: LayerNorm

    def meet_each_other(self, hidden: torch.Tensor, positions: torch.Tensor) -> _Placed:
        """Self-attention of [n, Q + 1, C]."""
        query, key = self.self_query_key(hidden + positions).chunk(2, dim=-1)
        mixed = attend(query, key, self.self_value(hidden), self.num_heads)
        return add_norm_place(hidden, self.self_out(mixed), self.norm_after_self, positions)[1:]

    def meet_text(self, state: _Placed, positions: torch.Tensor, text: PromptAttention) -> _Placed:
        """Cross-attention of [n, Q + 1, C] to the words of n prompts."""
        hidden, placed = state
        return add_norm_place(hidden, text(placed), self.norm_after_text, positions)[1:]

    def meet_image(
        self, state: _Placed, key: torch.Tensor, value: torch.Tensor, bias: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Cross-attention of [n, Q + 1, C] to image tokens, keys and values [n, N, C], then the MLP."""
        hidden, placed = state
        mixed = attend_boxes(self.vision_query(placed), key, value, *bias, self.num_heads)
        hidden = add_norm(hidden, self.vision_out(mixed), self.norm_after_vision)[1]
        return add_norm(hidden, self.mlp(hidden), self.norm_after_mlp)[1]


class DetrDecoder:
    """All layers, with the vocabulary folded in.

    Up to its first look at the image the decoder knows only its own queries and the prompt: that much is computed here,
    once per vocabulary, together with the first boxes' bias. And the image tokens stay what they are from layer to
    layer: the keys and values of all layers are one product each.

    Attributes:
        num_queries: Candidates per prompt.

    Args:
        module: The model's ``detr_decoder``.
        text: The vocabulary.
        grid_hw: Rows and columns of image tokens.
        placement: Where to compute.
    """

    def __init__(
        self,
        module: Any,
        text: TextFeatures,
        grid_hw: tuple[int, int],
        placement: Placement,
    ) -> None:
        in_float32 = Placement(placement.device, torch.float32)
        self._layers = tuple(_take_layer(layer, placement) for layer in module.layers)
        attentions = [layer.vision_cross_attn for layer in module.layers]
        self._keys = Affine(torch.cat([place(one.k_proj.weight, placement) for one in attentions]), None)
        self._values = Affine(torch.cat([place(one.v_proj.weight, placement) for one in attentions]), None)
        self._texts = PromptAttentions(
            [fold_prompts(one.text_cross_attn, text, placement) for one in module.layers[1:]]
        )
        self._geometry: BoxGeometry = take_box_geometry(module, grid_hw, placement)
        self._box_head = make_box_head(
            take_norm(module.output_layer_norm, placement), take_perceptron(module.box_head, placement), placement.dtype
        )
        self._presence_norm = take_norm(module.presence_layer_norm, placement)
        self._presence_head = take_perceptron(module.presence_head, placement)

        queries = place(module.query_embed.weight, in_float32)
        self.num_queries: int = queries.shape[0]
        self._first_boxes = place(module.reference_points.weight, in_float32).sigmoid()[None]
        self._first_bias = self._geometry.attention_bias(self._first_boxes)
        exact = take_box_geometry(module, grid_hw, in_float32)
        first_positions = exact.query_positions(exact.encode(self._first_boxes))
        self._first_positions = first_positions.to(placement.dtype)
        first = _take_layer(module.layers[0], in_float32)
        hidden = torch.cat([place(module.presence_token.weight, in_float32), queries])[None]
        hidden, placed = first.meet_each_other(hidden, first_positions)
        everywhere = (text.tokens.shape[0], -1, -1)
        words = fold_prompts(module.layers[0].text_cross_attn, text, in_float32)
        state = hidden.expand(everywhere), placed.expand(everywhere)
        self._start = first.meet_text(state, first_positions, words)[0].to(placement.dtype)

    def find(self, memory: Memory, pairs: Pairs) -> Candidates:
        """Runs the decoder.

        Args:
            memory: Output of the encoder, of n pairs.
            pairs: Which pairs these are.
        """
        keys = self._keys(memory.placed).chunk(len(self._layers), dim=-1)
        values = self._values(memory.tokens).chunk(len(self._layers), dim=-1)
        hidden = self._start[pairs.prompts]
        texts = self._texts.select(pairs.prompts)
        boxes, positions, bias = self._first_boxes, self._first_positions, self._first_bias
        normed = hidden[:, 1:].float()
        for number, layer in enumerate(self._layers):
            if number == 0:
                state = hidden, hidden + positions
            else:
                state = layer.meet_text(layer.meet_each_other(hidden, positions), positions, texts[number - 1])
            hidden = layer.meet_image(state, keys[number], values[number], bias)
            normed, delta = box_deltas(hidden, self._box_head)
            boxes, encoded = self._geometry.refine(delta, boxes)
            if number + 1 < len(self._layers):
                positions, bias = self._geometry.query_positions(encoded), self._geometry.attention_bias(boxes)
        presence = self._presence_head(self._presence_norm.in_float32(hidden[:, 0]))[:, 0]
        presence = presence.clamp(-_MOST_PRESENCE_LOGIT, _MOST_PRESENCE_LOGIT).sigmoid()
        return Candidates(normed, to_corners(boxes), presence)


def _take_layer(module: Any, placement: Placement) -> DecoderLayer:
    own, vision = module.self_attn, module.vision_cross_attn
    weight = [place(part.weight, placement, torch.float32) for part in (own.q_proj, own.k_proj)]
    query_bias = place(own.q_proj.bias, placement, torch.float32)
    scale = vision.scaling * BASE_2
    return DecoderLayer(
        num_heads=own.num_attention_heads,
        self_query_key=Affine(
            place(torch.cat(weight), placement), place(torch.cat([query_bias, torch.zeros_like(query_bias)]), placement)
        ),
        self_value=Affine(place(own.v_proj.weight, placement), None),
        self_out=take_out_projection(own, placement),
        norm_after_self=take_norm(module.self_attn_layer_norm, placement),
        norm_after_text=take_norm(module.text_cross_attn_layer_norm, placement),
        vision_query=Affine(
            place(place(vision.q_proj.weight, placement, torch.float32) * scale, placement),
            place(place(vision.q_proj.bias, placement, torch.float32) * scale, placement),
        ),
        vision_out=take_out_projection(vision, placement),
        norm_after_vision=take_norm(module.vision_cross_attn_layer_norm, placement),
        mlp=take_feed_forward(module.mlp, placement),
        norm_after_mlp=take_norm(module.mlp_layer_norm, placement),
    )
