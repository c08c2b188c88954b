"""Boxes inside the decoder: their encoding, their refinement, and the attention bias they cause. All in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import Perceptron, take_perceptron

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
        position_head: From encoded boxes (2 C) to query positions (C).
        bias_x, bias_y: From log distances to the two sides of a box, to a bias per head.
        columns, rows: Coordinates of the token grid in [0, 1), [width] and [height].
    """

    frequencies: torch.Tensor
    scale: float
    position_head: Perceptron
    bias_x: Perceptron
    bias_y: Perceptron
    columns: torch.Tensor
    rows: torch.Tensor

    def query_positions(self, boxes_cxcywh: torch.Tensor) -> torch.Tensor:
        """Positions of the presence token (none: zeros) and the queries, [n, Q, 4] to [n, Q + 1, C]."""
        center_y_first = boxes_cxcywh[..., [1, 0, 2, 3]]
        angles = (center_y_first * self.scale)[..., None] / self.frequencies
        encoded = torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-3)
        return functional.pad(self.position_head(encoded), (0, 0, 1, 0))

    def attention_bias(self, boxes_cxcywh: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """How much each query's box draws attention to each image token.

        A sum of a row term and a column term; the presence token has no box and no bias.

        Args:
            boxes_cxcywh: [n, Q, 4].
            dtype: Of the result.

        Returns:
            [n, heads, Q + 1, height * width].
        """
        corners = to_corners(boxes_cxcywh)[:, :, None]
        by_column = self.bias_x(_log_distance(self.columns[:, None] - corners[..., 0::2])).permute(0, 3, 1, 2)
        by_row = self.bias_y(_log_distance(self.rows[:, None] - corners[..., 1::2])).permute(0, 3, 1, 2)
        count, heads, queries, _ = by_row.shape
        bias = torch.empty(
            (count, heads, queries + 1, len(self.rows), len(self.columns)), dtype=dtype, device=corners.device
        )
        bias[:, :, 0] = 0
        torch.add(by_row[..., None].to(dtype), by_column[..., None, :].to(dtype), out=bias[:, :, 1:])
        return bias.flatten(-2)


def _log_distance(distance: torch.Tensor) -> torch.Tensor:
    scaled = distance * 8
    return scaled.sign() * (scaled.abs() + 1).log2() / math.log2(8)


def take_box_geometry(module: Any, grid_hw: tuple[int, int], placement: Placement) -> BoxGeometry:
    """Reads the weights of transformers' DETR decoder."""
    encoding = module.position_encoding
    index = torch.arange(encoding.num_position_features, device=placement.device)
    pairs = torch.div(index, 2, rounding_mode="floor").float()
    height, width = grid_hw
    return BoxGeometry(
        frequencies=encoding.temperature ** (2 * pairs / encoding.num_position_features),
        scale=float(encoding.scale),
        position_head=take_perceptron(module.ref_point_head, placement),
        bias_x=take_perceptron(module.box_rpb_embed_x, placement),
        bias_y=take_perceptron(module.box_rpb_embed_y, placement),
        columns=torch.arange(width, device=placement.device).float() / width,
        rows=torch.arange(height, device=placement.device).float() / height,
    )
