"""The decoder's look at the image, drawn to each query's box by a bias of a row term plus a column term."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from sam3lt_ray.engine.ops.dispatch import has_triton, is_power_of_two, uses_kernels
from sam3lt_ray.engine.ops.token_attention import BASE_2, attend

Layer = tuple[torch.Tensor, torch.Tensor]
_MAX_HEADS: Final = 16


@dataclass(frozen=True, slots=True)
class AxisBias:
    """A perceptron of two layers from distances to the two sides of a box to a bias per head.

    Attributes:
        first: Weight [hidden, 2] and bias, float32.
        second: Weight [heads, hidden] and bias, float32.
        split: The first layer as its kernel wants it; None: there is no kernel for it.
    """

    first: Layer
    second: Layer
    split: torch.Tensor | None


def make_axis_bias(first: Layer, second: Layer, dtype: torch.dtype) -> AxisBias:
    """For attention that computes in ``dtype``; layers as in :class:`AxisBias`."""
    heads, hidden = second[0].shape
    if not (uses_kernels(first[0].device, dtype) and heads <= _MAX_HEADS and is_power_of_two(hidden, 32)):
        return AxisBias(first, second, None)
    from sam3lt_ray.engine.kernels import box_attention

    return AxisBias(first, second, box_attention.split(*first, dtype))


def box_bias(boxes_cxcywh: torch.Tensor, axis: int, size: int, layers: AxisBias) -> torch.Tensor:
    """What boxes add to the logits along one axis of the image.

    The perceptron sees the log distances of a position to the two sides of the box: sign(d) log8(|d| + 1) with
    d = 8 (position - side).

    Args:
        boxes_cxcywh: Shares of the image, float32 [n, Q, 4].
        axis: 0 along x, 1 along y.
        size: Positions along the axis, 0, 1 / size, 2 / size, ...
        layers: The perceptron; where there is a kernel for it, bf16 rounds what is between the layers.

    Returns:
        float32 [n, heads, Q + 1, size], to the base 2; the presence token in front has no box and no bias.
    """
    if layers.split is not None and has_triton(boxes_cxcywh.device):
        from sam3lt_ray.engine.kernels import box_attention

        return box_attention.box_bias(boxes_cxcywh, axis, size, layers.split, layers.second)
    first, second = layers.first, layers.second
    center, half = boxes_cxcywh[..., axis], 0.5 * boxes_cxcywh[..., axis + 2]
    sides = torch.stack([center - half, center + half], dim=-1)[:, :, None]
    positions = torch.arange(size, device=boxes_cxcywh.device).float() / size
    distance = (positions[:, None] - sides) * 8
    distance = distance.sign() * (distance.abs() + 1).log2() / math.log2(8)
    by_head = functional.linear(functional.relu_(functional.linear(distance, *first)), *second)
    return functional.pad(by_head.permute(0, 3, 1, 2) * BASE_2, (0, 0, 1, 0))


def attend_boxes(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    by_row: torch.Tensor,
    by_column: torch.Tensor,
    num_heads: int,
) -> torch.Tensor:
    """Attention of queries to image tokens with logits to the base 2.

    Args:
        query: [n, Q, C], scaled by log2(e) / sqrt(C / heads); contiguous.
        key: [n, height * width, C]; may be a part of a wider tensor.
        value: The same.
        by_row: Bias by row, float32 [n or 1, heads, Q, height].
        by_column: Bias by column, float32 [n or 1, heads, Q, width].
        num_heads: Attention heads.

    Returns:
        [n, Q, C].
    """
    head = query.shape[-1] // num_heads
    if uses_kernels(query.device, query.dtype) and is_power_of_two(head, 16):
        from sam3lt_ray.engine.kernels import box_attention

        return box_attention.attend_boxes(query, key, value, by_row, by_column, num_heads)
    bias = (by_row[..., :, None] / BASE_2).to(query.dtype) + (by_column[..., None, :] / BASE_2).to(query.dtype)
    return attend(query, key, value, num_heads, bias.flatten(-2), scale=1 / BASE_2)
