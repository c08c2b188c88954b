"""Rotary positions of the vision transformer (RoFormer, arXiv 2104.09864, with two axes)."""

from __future__ import annotations

import torch

from sam3lt_ray.engine.ops.dispatch import uses_kernels


def rotate_(packed: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> None:
    """Turns queries and keys by their positions, in place and in float32.

    Args:
        packed: Queries, keys and values side by side, [rows, 3 C], contiguous; every head has C / heads channels.
        cosine: Of each position and channel pair, float32 [period, C / heads / 2]; row r is at position r mod period.
        sine: The same.
    """
    if uses_kernels(packed.device, packed.dtype):
        from sam3lt_ray.engine.kernels import rotary

        rotary.rotate(packed, cosine, sine)
        return
    period, pairs = cosine.shape
    for part in packed.chunk(3, dim=-1)[:2]:
        by_pair = part.unflatten(-1, (-1, pairs, 2)).unflatten(0, (-1, period))  # [repeats, period, heads, pairs, 2]
        even, odd = by_pair.float().unbind(-1)
        turned = torch.stack(
            [even * cosine[:, None] - odd * sine[:, None], odd * cosine[:, None] + even * sine[:, None]], dim=-1
        )
        by_pair.copy_(turned)
