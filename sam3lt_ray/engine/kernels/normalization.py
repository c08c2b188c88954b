"""Residual addition and layer normalization in one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def normalize_rows(x, weight, bias, eps: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Layer normalization of float32 [rows, BLOCK]; columns from WIDTH on are zero and stay without meaning."""
    mean = tl.sum(x, 1) / WIDTH
    centered = x - mean[:, None]
    if BLOCK != WIDTH:
        centered = tl.where((tl.arange(0, BLOCK) < WIDTH)[None, :], centered, 0.0)
    variance = tl.sum(centered * centered, 1) / WIDTH
    return centered * tl.rsqrt(variance + eps)[:, None] * weight[None, :] + bias[None, :]


@triton.jit(do_not_specialize=["num_rows"])
def _add_norm(
    x_ptr, delta_ptr, weight_ptr, bias_ptr, positions_ptr, sum_ptr, normed_ptr, placed_ptr, num_rows,
    eps: tl.constexpr, NUM_TOKENS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
    HAS_DELTA: tl.constexpr, HAS_POSITIONS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    in_width = columns < WIDTH
    valid = (rows < num_rows)[:, None] & in_width[None, :]
    at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    if HAS_DELTA:
        x += tl.load(delta_ptr + at, mask=valid, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=valid)
        x = rounded.to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=in_width, other=0.0)
    bias = tl.load(bias_ptr + columns, mask=in_width, other=0.0)
    normed = normalize_rows(x, weight, bias, eps, WIDTH, BLOCK)
    tl.store(normed_ptr + at, normed.to(normed_ptr.dtype.element_ty), mask=valid)
    if HAS_POSITIONS:
        # 0: every row has its own
        token = at if NUM_TOKENS == 0 else (rows % NUM_TOKENS)[:, None] * WIDTH + columns[None, :]
        normed += tl.load(positions_ptr + token, mask=valid, other=0.0).to(tl.float32)
        tl.store(placed_ptr + at, normed.to(placed_ptr.dtype.element_ty), mask=valid)


def add_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    positions: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :func:`sam3lt_ray.engine.ops.normalization.add_norm`; without positions the third result is the second."""
    width = x.shape[-1]
    num_rows = x.numel() // width
    total = x if delta is None else torch.empty_like(x)
    normed = torch.empty_like(x)
    placed = normed if positions is None else torch.empty_like(x)
    block = triton.next_power_of_2(width)
    rows = 1 if block >= 256 else 256 // block
    is_shared = positions is not None and (positions.dim() == 2 or positions.shape[0] < x.shape[0])
    num_tokens = positions.shape[-2] if positions is not None and is_shared else 0
    _add_norm[(triton.cdiv(num_rows, rows),)](
        x, x if delta is None else delta, weight, bias, weight if positions is None else positions, total, normed,
        placed, num_rows, eps, num_tokens, width, block, rows,
        delta is not None, positions is not None, num_warps=4 if block > 512 else 2,
    )  # fmt: skip
    return total, normed, placed


@triton.jit(do_not_specialize=["num_rows"])
def _add_place(
    x_ptr, delta_ptr, positions_ptr, sum_ptr, placed_ptr, num_rows,
    NUM_TOKENS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    valid = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    total = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
    total += tl.load(delta_ptr + at, mask=valid, other=0.0).to(tl.float32)
    tl.store(sum_ptr + at, total.to(sum_ptr.dtype.element_ty), mask=valid)
    token = (rows % NUM_TOKENS)[:, None] * WIDTH + columns[None, :]
    total += tl.load(positions_ptr + token, mask=valid, other=0.0).to(tl.float32)
    tl.store(placed_ptr + at, total.to(placed_ptr.dtype.element_ty), mask=valid)


def add_place(x: torch.Tensor, delta: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`sam3lt_ray.engine.ops.normalization.add_place`."""
    num_tokens, width = positions.shape
    total, placed = torch.empty_like(x), torch.empty_like(x)
    num_rows = x.numel() // width
    block = triton.next_power_of_2(width)
    rows = max(1, 2048 // block)
    _add_place[(triton.cdiv(num_rows, rows),)](
        x, delta, positions, total, placed, num_rows, num_tokens, width, block, rows, num_warps=4
    )
    return total, placed
