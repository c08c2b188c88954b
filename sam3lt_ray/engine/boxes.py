"""Boxes inside the decoder: their encoding, their refinement, and the attention bias they cause. All in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import Perceptron, take_perceptron
from sam3lt_ray.engine.ops.box_attention import AxisBias, box_bias, make_axis_bias
from sam3lt_ray.engine.ops.box_refinement import encode_boxes, refine_boxes


def to_corners(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    """(center x, center y, width, height) to (x1, y1, x2, y2)."""
    center, half = boxes_cxcywh[..., :2], 0.5 * boxes_cxcywh[..., 2:]
    return torch.cat([center - half, center + half], dim=-1)


@dataclass(frozen=True, slots=True)
class BoxGeometry:
    """What boxes mean to attention.

    Attributes:
        factors: From a coordinate in [0, 1] to the angles of its encoding, [C / 2].
        position_head: From encoded boxes (2 C) to query positions (C), in the dtype of the queries.
        bias_x, bias_y: What distances to the sides of a box mean, along either axis.
        grid_hw: Rows and columns of image tokens.
        dtype: Of the queries.
    """

    factors: torch.Tensor
    position_head: Perceptron
    bias_x: AxisBias
    bias_y: AxisBias
    grid_hw: tuple[int, int]
    dtype: torch.dtype

    def encode(self, boxes_cxcywh: torch.Tensor) -> torch.Tensor:
        """[n, Q, 4] to [n, Q, 2 C], in the dtype of the queries."""
        return encode_boxes(boxes_cxcywh, self.factors).to(self.dtype)

    def refine(self, delta: torch.Tensor, boxes_cxcywh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """New boxes and their encoding: :func:`~sam3lt_ray.engine.ops.box_refinement.refine_boxes`."""
        return refine_boxes(delta, boxes_cxcywh, self.factors, self.dtype)

    def query_positions(self, encoded: torch.Tensor) -> torch.Tensor:
        """Positions of the presence token (none: zeros) and the queries, [n, Q, 2 C] to [n, Q + 1, C]."""
        return functional.pad(self.position_head(encoded), (0, 0, 1, 0))

    def attention_bias(self, boxes_cxcywh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How much each query's box draws attention to each image token: a row term and a column term.

        Args:
            boxes_cxcywh: [n, Q, 4].

        Returns:
            By row [n, heads, Q + 1, height] and by column [n, heads, Q + 1, width], float32, to the base 2; the
            presence token has no box and no bias.
        """
        height, width = self.grid_hw
        return box_bias(boxes_cxcywh, 1, height, self.bias_y), box_bias(boxes_cxcywh, 0, width, self.bias_x)


def take_box_geometry(module: Any, grid_hw: tuple[int, int], placement: Placement) -> BoxGeometry:
    """Reads the weights of transformers' DETR decoder."""
    encoding = module.position_encoding
    index = torch.arange(encoding.num_position_features, device=placement.device)
    pairs = torch.div(index, 2, rounding_mode="floor").float()
    return BoxGeometry(
        factors=float(encoding.scale) / encoding.temperature ** (2 * pairs / encoding.num_position_features),
        position_head=take_perceptron(module.ref_point_head, placement, placement.dtype),
        bias_x=_take_axis_bias(module.box_rpb_embed_x, placement),
        bias_y=_take_axis_bias(module.box_rpb_embed_y, placement),
        grid_hw=grid_hw,
        dtype=placement.dtype,
    )


def _take_axis_bias(module: Any, placement: Placement) -> AxisBias:
    first, second = take_perceptron(module, placement).layers
    assert first.bias is not None  # SAM3's box bias has them
    assert second.bias is not None
    return make_axis_bias((first.weight, first.bias), (second.weight, second.bias), placement.dtype)
