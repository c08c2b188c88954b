"""Boxes inside the decoder: their encoding, their refinement, and the attention bias they cause. All in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import Perceptron, take_perceptron
from sam3lt_ray.engine.ops.box_attention import Layer, box_bias

_INVERSE_SIGMOID_EPS: Final = 1e-3  # part of the trained model: refinement starts from clamped logits


def to_corners(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    """(center x, center y, width, height) to (x1, y1, x2, y2)."""
    center, half = boxes_cxcywh[..., :2], 0.5 * boxes_cxcywh[..., 2:]
    return torch.cat([center - half, center + half], dim=-1)


def inverse_sigmoid(values: torch.Tensor) -> torch.Tensor:
    """Logit of values in [0, 1], clamped near both ends as the model was trained."""
    values = values.clamp(0, 1)
    return (values.clamp(min=_INVERSE_SIGMOID_EPS) / (1 - values).clamp(min=_INVERSE_SIGMOID_EPS)).log()


@dataclass(frozen=True, slots=True)
class BoxGeometry:
    """What boxes mean to attention.

    Attributes:
        frequencies: Divisors of the sine encoding, [C / 2].
        scale: Factor on coordinates in [0, 1] before the encoding.
        position_head: From encoded boxes (2 C) to query positions (C), in the dtype of the queries.
        bias_x, bias_y: Two layers each, from log distances to the two sides of a box to a bias per head.
        grid_hw: Rows and columns of image tokens.
        dtype: Of the queries.
    """

    frequencies: torch.Tensor
    scale: float
    position_head: Perceptron
    bias_x: tuple[Layer, Layer]
    bias_y: tuple[Layer, Layer]
    grid_hw: tuple[int, int]
    dtype: torch.dtype

    def query_positions(self, boxes_cxcywh: torch.Tensor) -> torch.Tensor:
        """Positions of the presence token (none: zeros) and the queries, [n, Q, 4] to [n, Q + 1, C]."""
        x, y, width, height = boxes_cxcywh.unbind(-1)
        center_y_first = torch.stack([y, x, width, height], dim=-1)  # a list as index would be copied, and waited for
        angles = (center_y_first * self.scale)[..., None] / self.frequencies
        encoded = torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-3)
        return functional.pad(self.position_head(encoded.to(self.dtype)), (0, 0, 1, 0))

    def attention_bias(self, boxes_cxcywh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How much each query's box draws attention to each image token: a row term and a column term.

        Args:
            boxes_cxcywh: [n, Q, 4].

        Returns:
            By row [n, heads, Q + 1, height] and by column [n, heads, Q + 1, width], float32, to the base 2; the
            presence token has no box and no bias.
        """
        height, width = self.grid_hw
        by_row = box_bias(boxes_cxcywh, 1, height, *self.bias_y, self.dtype)
        return by_row, box_bias(boxes_cxcywh, 0, width, *self.bias_x, self.dtype)


def take_box_geometry(module: Any, grid_hw: tuple[int, int], placement: Placement) -> BoxGeometry:
    """Reads the weights of transformers' DETR decoder."""
    encoding = module.position_encoding
    index = torch.arange(encoding.num_position_features, device=placement.device)
    pairs = torch.div(index, 2, rounding_mode="floor").float()
    return BoxGeometry(
        frequencies=encoding.temperature ** (2 * pairs / encoding.num_position_features),
        scale=float(encoding.scale),
        position_head=take_perceptron(module.ref_point_head, placement, placement.dtype),
        bias_x=_two_layers(module.box_rpb_embed_x, placement),
        bias_y=_two_layers(module.box_rpb_embed_y, placement),
        grid_hw=grid_hw,
        dtype=placement.dtype,
    )


def _two_layers(module: Any, placement: Placement) -> tuple[Layer, Layer]:
    first, second = take_perceptron(module, placement).layers
    assert first.bias is not None  # SAM3's box bias has them
    assert second.bias is not None
    return (first.weight, first.bias), (second.weight, second.bias)
