"""The decoder's look at the image: the bias that boxes cause, and attention with it in its factored form."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sam3lt_ray.engine.kernels.token_attention import LEAST_SUM, MOST_SUM, exp2


@triton.jit(do_not_specialize=["num_rows"])
def _box_bias(
    boxes_ptr, first_ptr, second_weight_ptr, second_bias_ptr, out_ptr, num_rows,
    AXIS: tl.constexpr, SIZE: tl.constexpr, NUM_QUERIES: tl.constexpr, HIDDEN: tl.constexpr, HEADS: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Both layers are matrix products: distances come in two halves, each as precise as the format (see ``split``)."""
    dtype: tl.constexpr = first_ptr.dtype.element_ty
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = rows < num_rows
    position, query = rows % SIZE, rows // SIZE % (NUM_QUERIES + 1)
    pair = rows // SIZE // (NUM_QUERIES + 1)
    has_box = query > 0  # the presence token has none
    box = boxes_ptr + (pair * NUM_QUERIES + query - 1) * 4 + AXIS
    center = tl.load(box, mask=valid & has_box, other=0.0)
    half = 0.5 * tl.load(box + 2, mask=valid & has_box, other=0.0)
    here = position.to(tl.float32) / SIZE
    near, far = (here - (center - half)) * 8, (here - (center + half)) * 8
    near = tl.where(near < 0, -1.0, 1.0) * tl.log2(tl.abs(near) + 1) / 3  # log2(8)
    far = tl.where(far < 0, -1.0, 1.0) * tl.log2(tl.abs(far) + 1) / 3
    near_high, far_high = near.to(dtype).to(tl.float32), far.to(dtype).to(tl.float32)
    part = tl.arange(0, 16)[None, :]
    of_near = tl.where(part == 1, (near - near_high)[:, None], near_high[:, None])
    of_far = tl.where(part == 4, (far - far_high)[:, None], far_high[:, None])
    seen = tl.where(part < 3, of_near, tl.where(part < 6, of_far, tl.where(part < 8, 1.0, 0.0))).to(dtype)
    heads = tl.arange(0, 16)
    is_head = heads < HEADS
    bias = tl.zeros([ROWS, 16], tl.float32)
    for start in range(0, HIDDEN, CHUNK):
        units = start + tl.arange(0, CHUNK)
        first = tl.load(first_ptr + tl.arange(0, 16)[:, None] * HIDDEN + units[None, :])
        hidden = tl.maximum(tl.dot(seen, first), 0.0)
        second = tl.load(second_weight_ptr + heads[None, :] * HIDDEN + units[:, None], mask=is_head[None, :], other=0.0)
        bias = tl.dot(hidden.to(dtype), second.to(dtype), bias)
    bias = (bias + tl.load(second_bias_ptr + heads, mask=is_head, other=0.0)[None, :]) * 1.4426950408889634
    bias = tl.where(has_box[:, None], bias, 0.0)
    at = ((pair[:, None] * HEADS + heads[None, :]) * (NUM_QUERIES + 1) + query[:, None]) * SIZE + position[:, None]
    tl.store(out_ptr + at, bias, mask=valid[:, None] & is_head[None, :])


def split(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A layer [hidden, 2] with its bias as [16, hidden] in ``dtype``, for distances that come in two halves each.

    With x = x1 + x2 and w = w1 + w2, the first of each as precise as the format and the second what is left, x w is
    x1 w1 + x2 w1 + x1 w2 up to the square of its precision. So the rows are w1, w1, w2 of either side, the two halves
    of the bias, and zeros.
    """
    near, far = weight.unbind(1)
    rows = torch.zeros((16, weight.shape[0]), dtype=dtype, device=weight.device)
    for first, values in ((0, near), (3, far), (6, bias)):
        high = values.to(dtype)
        low = (values - high.float()).to(dtype)
        some = (high, low) if first == 6 else (high, high, low)
        rows[first : first + len(some)] = torch.stack(some)
    return rows


def box_bias(
    boxes_cxcywh: torch.Tensor, axis: int, size: int, first: torch.Tensor, second: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """See :func:`sam3lt_ray.engine.ops.box_attention.box_bias`; the first layer is :func:`split`."""
    num_pairs, num_queries, _ = boxes_cxcywh.shape
    heads, hidden = second[0].shape
    out = torch.empty((num_pairs, heads, num_queries + 1, size), dtype=torch.float32, device=boxes_cxcywh.device)
    num_rows = num_pairs * (num_queries + 1) * size
    _box_bias[(triton.cdiv(num_rows, 128),)](
        boxes_cxcywh, first, *second, out, num_rows, axis, size, num_queries, hidden, heads, 128, 32, num_warps=4
    )
    return out


@triton.jit
def _load_tile(
    number, key_ptr, value_ptr, by_row_ptr, by_column_ptr, bias_row,
    KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    HEAD: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """Keys, values and bias of 8 x 8 image tokens: in that form the bias is 8 values by row plus 8 by column."""
    ACROSS: tl.constexpr = (WIDTH + 7) // 8
    eight = tl.arange(0, 8)
    tile = tl.arange(0, 64)
    channels = tl.arange(0, HEAD)
    top, left = number // ACROSS * 8, number % ACROSS * 8
    y, x = top + tile // 8, left + tile % 8
    tokens = y * WIDTH + x
    by_row_ptr += bias_row[:, None] * HEIGHT + top + eight[None, :]
    by_column_ptr += bias_row[:, None] * WIDTH + left + eight[None, :]
    if (WIDTH % 8 == 0) & (HEIGHT % 8 == 0):
        key = tl.load(key_ptr + tokens[:, None] * KEY_STRIDE + channels[None, :])
        value = tl.load(value_ptr + tokens[:, None] * VALUE_STRIDE + channels[None, :])
        by_row, by_column = tl.load(by_row_ptr), tl.load(by_column_ptr)
    else:
        inside = ((y < HEIGHT) & (x < WIDTH))[:, None]
        down, across = (top + eight < HEIGHT)[None, :], (left + eight < WIDTH)[None, :]
        key = tl.load(key_ptr + tokens[:, None] * KEY_STRIDE + channels[None, :], mask=inside, other=0.0)
        value = tl.load(value_ptr + tokens[:, None] * VALUE_STRIDE + channels[None, :], mask=inside, other=0.0)
        by_row = tl.load(by_row_ptr, mask=down, other=-float("inf"))
        by_column = tl.load(by_column_ptr, mask=across, other=-float("inf"))
    return key, value, tl.reshape(by_row[:, :, None] + by_column[:, None, :], [QUERIES, 64])


@triton.jit
def _with_running_maximum(
    query, key_ptr, value_ptr, by_row_ptr, by_column_ptr, bias_row,
    KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    HEAD: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    mixed = tl.zeros([QUERIES, HEAD], tl.float32)
    most = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    for number in range(0, (HEIGHT + 7) // 8 * ((WIDTH + 7) // 8)):
        key, value, bias = _load_tile(
            number, key_ptr, value_ptr, by_row_ptr, by_column_ptr, bias_row,
            KEY_STRIDE, VALUE_STRIDE, HEIGHT, WIDTH, HEAD, QUERIES,
        )  # fmt: skip
        logits = tl.dot(query, key.T, bias)
        new_most = tl.maximum(most, tl.max(logits, 1))
        weights = exp2(logits - new_most[:, None])
        shrink = exp2(most - new_most)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(value.dtype), value, mixed * shrink[:, None])
        most = new_most
    return mixed, total


@triton.jit
def _attend(
    query_ptr, key_ptr, value_ptr, by_row_ptr, by_column_ptr, out_ptr,
    KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr, BIAS_STRIDE: tl.constexpr,
    NUM_QUERIES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, NUM_HEADS: tl.constexpr, HEAD: tl.constexpr,
    QUERIES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Without the running maximum, as :mod:`~sam3lt_ray.engine.kernels.token_attention` does it and says why."""
    head = tl.program_id(1)
    pair = tl.program_id(2).to(tl.int64)
    NUM_TOKENS: tl.constexpr = HEIGHT * WIDTH
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channels = tl.arange(0, HEAD)
    in_range = rows < NUM_QUERIES
    query_at = (pair * NUM_QUERIES + rows)[:, None] * (NUM_HEADS * HEAD) + head * HEAD + channels[None, :]
    query = tl.load(query_ptr + query_at, mask=in_range[:, None], other=0.0)
    key_ptr += pair * NUM_TOKENS * KEY_STRIDE + head * HEAD
    value_ptr += pair * NUM_TOKENS * VALUE_STRIDE + head * HEAD
    bias_row = pair * BIAS_STRIDE + head * NUM_QUERIES + tl.minimum(rows, NUM_QUERIES - 1)

    mixed = tl.zeros([QUERIES, HEAD], tl.float32)
    totals = tl.zeros([QUERIES, 8], tl.float32)
    for number in tl.range(0, (HEIGHT + 7) // 8 * ((WIDTH + 7) // 8), num_stages=STAGES):
        key, value, bias = _load_tile(
            number, key_ptr, value_ptr, by_row_ptr, by_column_ptr, bias_row,
            KEY_STRIDE, VALUE_STRIDE, HEIGHT, WIDTH, HEAD, QUERIES,
        )  # fmt: skip
        weights = exp2(tl.dot(query, key.T, bias))
        totals += tl.sum(tl.reshape(weights, [QUERIES, 8, 8]), 1)
        mixed = tl.dot(weights.to(value.dtype), value, mixed)
    total = tl.sum(totals, 1)
    trusted = ((total > LEAST_SUM) & (total < MOST_SUM)) | (rows >= NUM_QUERIES)  # false for NaN
    if tl.min(trusted.to(tl.int32), 0) == 0:
        mixed, total = _with_running_maximum(
            query, key_ptr, value_ptr, by_row_ptr, by_column_ptr, bias_row,
            KEY_STRIDE, VALUE_STRIDE, HEIGHT, WIDTH, HEAD, QUERIES,
        )  # fmt: skip
    out = (mixed / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + query_at, out, mask=in_range[:, None])


def attend_boxes(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    by_row: torch.Tensor,
    by_column: torch.Tensor,
    num_heads: int,
) -> torch.Tensor:
    """See :func:`sam3lt_ray.engine.ops.box_attention.attend_boxes`; keys and values may be strided by token."""
    num_pairs, num_queries, width = query.shape
    out = torch.empty_like(query)
    shared = by_row.shape[0] == 1
    _attend[(triton.cdiv(num_queries, 64), num_heads, num_pairs)](
        query, key, value, by_row, by_column, out, key.stride(1), value.stride(1),
        0 if shared else num_heads * num_queries, num_queries, by_row.shape[-1], by_column.shape[-1], num_heads,
        width // num_heads, 64, 3, num_warps=4,
    )  # fmt: skip
    return out
