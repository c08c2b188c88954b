"""From decoded queries to what their boxes are moved by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from sam3lt_ray.engine.layers import Perceptron
from sam3lt_ray.engine.ops.dispatch import has_triton, is_power_of_two, uses_kernels
from sam3lt_ray.engine.ops.normalization import LayerNorm

_MOST_WIDTH: Final = 256
_NUM_LAYERS: Final = 3


@dataclass(frozen=True, slots=True)
class BoxHead:
    """The decoder's output norm and its box head, in float32.

    Attributes:
        norm: Of queries.
        layers: From normalised queries to four logits.
        split: The layers' weights as their kernel wants them; None: there is no kernel for them.
    """

    norm: LayerNorm
    layers: Perceptron
    split: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None


def make_box_head(norm: LayerNorm, layers: Perceptron, dtype: torch.dtype) -> BoxHead:
    """For queries in ``dtype``."""
    width = norm.weight.shape[0]
    shapes = [tuple(one.weight.shape) for one in layers.layers]
    kernel_fits = (
        uses_kernels(norm.weight.device, dtype)
        and shapes == [(width, width)] * (_NUM_LAYERS - 1) + [(4, width)]
        and is_power_of_two(width, 16)
        and width <= _MOST_WIDTH
    )
    if not kernel_fits:
        return BoxHead(norm, layers, None)
    from sam3lt_ray.engine.kernels import box_head

    first, second, third = (box_head.split(one.weight, dtype) for one in layers.layers)
    return BoxHead(norm, layers, (first, second, third))


def box_deltas(hidden: torch.Tensor, head: BoxHead) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised queries, and how their boxes are to be moved.

    Args:
        hidden: Presence token and queries, [n, Q + 1, C], contiguous.
        head: What to apply.

    Returns:
        Normalised queries [n, Q, C] and changes of the boxes' logits [n, Q, 4], both float32. Products are done in
        float32, or in bf16 as three products of halves, which is nearly the same.
    """
    if head.split is not None and has_triton(hidden.device):
        from sam3lt_ray.engine.kernels import box_head

        first, second, third = (layer.bias for layer in head.layers.layers)
        assert first is not None  # SAM3's box head has biases throughout
        assert second is not None
        assert third is not None
        norm = (head.norm.weight, head.norm.bias, head.norm.eps)
        return box_head.box_deltas(hidden, norm, head.split, (first, second, third))
    normed = head.norm.in_float32(hidden[:, 1:])
    return normed, head.layers(normed)
