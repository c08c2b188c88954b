"""Output norm and box head of a decoder layer: float32 products, done as matrix units can do them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sam3lt_ray.engine.kernels.normalization import normalize_rows


@triton.jit(do_not_specialize=["num_rows"])
def _norm_queries(
    hidden_ptr, weight_ptr, bias_ptr, normed_ptr, num_rows,
    EPS: tl.constexpr, NUM_QUERIES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    valid = (rows < num_rows)[:, None]
    channels = tl.arange(0, WIDTH)
    source = rows // NUM_QUERIES * (NUM_QUERIES + 1) + rows % NUM_QUERIES + 1  # the presence token is the first
    x = tl.load(hidden_ptr + source[:, None] * WIDTH + channels[None, :], mask=valid, other=0.0).to(tl.float32)
    weight, bias = tl.load(weight_ptr + channels), tl.load(bias_ptr + channels)
    normed = normalize_rows(x, weight, bias, EPS, WIDTH, WIDTH)
    tl.store(normed_ptr + rows[:, None] * WIDTH + channels[None, :], normed, mask=valid)


@triton.jit(do_not_specialize=["num_rows"])
def _linear(
    x_ptr, weight_ptr, bias_ptr, out_ptr, num_rows,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, FILLED: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """FILLED: OUTPUTS and what :func:`split` has filled them up with."""
    dtype: tl.constexpr = weight_ptr.dtype.element_ty
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid, wanted = rows < num_rows, columns < OUTPUTS
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, INPUTS, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        x = tl.load(x_ptr + rows[:, None] * INPUTS + depth[None, :], mask=valid[:, None], other=0.0)
        high = tl.load(weight_ptr + columns[:, None] * INPUTS + depth[None, :])
        low = tl.load(weight_ptr + (FILLED + columns)[:, None] * INPUTS + depth[None, :])
        x_high = x.to(dtype)
        x_low = (x - x_high.to(tl.float32)).to(dtype)
        acc = tl.dot(x_low, high.T, acc)
        acc = tl.dot(x_high, low.T, acc)
        acc = tl.dot(x_high, high.T, acc)
    acc += tl.load(bias_ptr + columns, mask=wanted, other=0.0)[None, :]
    if RELU:
        acc = tl.maximum(acc, 0.0)
    tl.store(out_ptr + rows[:, None] * OUTPUTS + columns[None, :], acc, mask=valid[:, None] & wanted[None, :])


def split(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A float32 matrix [out, in] as [2, out, in]: what ``dtype`` holds of it, and what ``dtype`` holds of the rest.

    With x split likewise, x W is x1 W1 + x2 W1 + x1 W2 up to the square of the format's precision: 2^-16 for bf16. Rows
    are filled up to 16 with zeros.
    """
    weight = torch.nn.functional.pad(weight, (0, 0, 0, max(0, 16 - weight.shape[0])))
    high = weight.to(dtype)
    return torch.stack([high, (weight - high.float()).to(dtype)])


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, relu: bool) -> torch.Tensor:
    """A linear layer, and ReLU if wanted, nearly in float32.

    Args:
        x: float32 [rows, in].
        weight: :func:`split`; in and out are powers of two, 16 or more, or out is smaller.
        bias: float32 [out].
        relu: Whether ReLU follows.
    """
    num_rows, inputs = x.shape
    filled, outputs = weight.shape[1], bias.shape[0]
    out = torch.empty((num_rows, outputs), dtype=torch.float32, device=x.device)
    columns = min(128, filled)
    _linear[(triton.cdiv(num_rows, 128), filled // columns)](
        x, weight, bias, out, num_rows, inputs, outputs, filled, relu, 128, columns, min(32, inputs),
        num_warps=8, num_stages=3,
    )  # fmt: skip
    return out


def box_deltas(
    hidden: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor, float],
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    biases: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`sam3lt_ray.engine.ops.box_head.box_deltas`; the norm as (weight, bias, eps), weights :func:`split`."""
    num_pairs, num_tokens, width = hidden.shape
    num_queries = num_tokens - 1
    num_rows = num_pairs * num_queries
    normed = torch.empty((num_pairs, num_queries, width), dtype=torch.float32, device=hidden.device)
    _norm_queries[(triton.cdiv(num_rows, 8),)](hidden, *norm[:2], normed, num_rows, norm[2], num_queries, width, 8)
    x = linear(normed.view(num_rows, width), weights[0], biases[0], relu=True)
    x = linear(x, weights[1], biases[1], relu=True)
    return normed, linear(x, weights[2], biases[2], relu=False).view(num_pairs, num_queries, 4)
