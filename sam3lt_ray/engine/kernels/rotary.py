"""Rotary positions on queries and keys where they lie."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate(
    packed_ptr, cosine_ptr, sine_ptr,
    PERIOD: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    angles = (row % PERIOD) * (HEAD // 2) + tl.arange(0, BLOCK // 2) % (HEAD // 2)
    at = packed_ptr + row.to(tl.int64) * (3 * WIDTH) + tl.program_id(1) * WIDTH + columns
    x = tl.load(at, mask=columns < WIDTH, other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(x, [BLOCK // 2, 2]))
    cosine, sine = tl.load(cosine_ptr + angles), tl.load(sine_ptr + angles)
    turned = tl.reshape(tl.join(even * cosine - odd * sine, odd * cosine + even * sine), [BLOCK])
    tl.store(at, turned.to(packed_ptr.dtype.element_ty), mask=columns < WIDTH)


def rotate(packed: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> None:
    """See :func:`sam3lt_ray.engine.ops.rotary.rotate_`."""
    width = packed.shape[-1] // 3
    num_rows = packed.numel() // packed.shape[-1]
    block = triton.next_power_of_2(width)
    _rotate[(num_rows, 2)](packed, cosine, sine, cosine.shape[0], width, block, 2 * cosine.shape[1], num_warps=4)
