"""Attention of image tokens among themselves without the running maximum.

With few channels per head this attention is bound by exponentials and the comparisons around them, not by products. A
softmax does not depend on what is subtracted in the exponent as long as nothing overflows or vanishes. So each tile of
queries is computed with exp2 of the plain logits, and the sums, kept in float32, show afterwards whether the range was
kept; where not, the tile is computed again with the running maximum of Milakov and Gimelshein (arXiv 1805.02867), as
flash attention does for every tile.

A program works on two tiles of queries, one after the other in each step over the keys. So the products of one are
computed while the exponentials of the other are, within the same threads.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

INTERPRETED: Final = tl.constexpr(bool(triton.knobs.runtime.interpret))
# Sums outside of these bounds are not trusted: products with values must not overflow, and what has vanished (terms
# under 2^-126) must be too small to be seen beside the sum.
LEAST_SUM: Final = tl.constexpr(2.0**-60)
MOST_SUM: Final = tl.constexpr(2.0**100)
# Keys at once where a tile is done again, which is rare: few, so that this does not raise the registers of all.
FEW_KEYS: Final = tl.constexpr(16)


@triton.jit
def exp2(x):
    """2^x by one instruction, results under 2^-126 as zero."""
    if INTERPRETED:
        return tl.exp2(x)
    else:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def _with_running_maximum(
    query, key_ptr, value_ptr, KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr,
    NUM_TOKENS: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    channels = tl.arange(0, HEAD)
    mixed = tl.zeros([QUERIES, HEAD], tl.float32)
    most = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    for start in range(0, NUM_TOKENS, KEYS):
        tokens = start + tl.arange(0, KEYS)
        valid = tokens < NUM_TOKENS
        key = tl.load(key_ptr + tokens[:, None] * KEY_STRIDE + channels[None, :], mask=valid[:, None], other=0.0)
        value = tl.load(value_ptr + tokens[:, None] * VALUE_STRIDE + channels[None, :], mask=valid[:, None], other=0.0)
        logits = tl.where(valid[None, :], tl.dot(query, key.T), -float("inf"))
        new_most = tl.maximum(most, tl.max(logits, 1))
        weights = exp2(logits - new_most[:, None])
        shrink = exp2(most - new_most)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(value.dtype), value, mixed * shrink[:, None])
        most = new_most
    return mixed, total


@triton.jit
def _load(
    pointer, start, channels, STRIDE: tl.constexpr, NUM_TOKENS: tl.constexpr, ROWS: tl.constexpr, WHOLE: tl.constexpr
):
    """Rows of a sequence; WHOLE: all of them are there."""
    tokens = start + tl.arange(0, ROWS)
    at = pointer + tokens[:, None] * STRIDE + channels[None, :]
    if WHOLE:
        return tl.load(at)
    else:
        return tl.load(at, mask=(tokens < NUM_TOKENS)[:, None], other=0.0)


@triton.jit
def _mix(logits, value, mixed, totals, start, NUM_TOKENS: tl.constexpr, WHOLE: tl.constexpr):
    """Adds a tile of keys to what its queries have so far."""
    QUERIES: tl.constexpr = logits.shape[0]
    KEYS: tl.constexpr = logits.shape[1]
    weights = exp2(logits)
    if not WHOLE:
        weights = tl.where((start + tl.arange(0, KEYS) < NUM_TOKENS)[None, :], weights, 0.0)
    totals += tl.sum(tl.reshape(weights, [QUERIES, KEYS // 8, 8]), 1)
    return tl.dot(weights.to(value.dtype), value, mixed), totals


@triton.jit
def _finish(
    query, mixed, totals, key_ptr, value_ptr, out_ptr, first, channels,
    KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, NUM_TOKENS: tl.constexpr,
    HEAD: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    total = tl.sum(totals, 1)
    trusted = (total > LEAST_SUM) & (total < MOST_SUM)  # false for NaN
    if tl.min(trusted.to(tl.int32), 0) == 0:
        mixed, total = _with_running_maximum(
            query, key_ptr, value_ptr, KEY_STRIDE, VALUE_STRIDE, NUM_TOKENS, HEAD, QUERIES, FEW_KEYS
        )
    rows = first + tl.arange(0, QUERIES)
    at = rows[:, None] * OUT_STRIDE + channels[None, :]
    tl.store(out_ptr + at, (mixed / total[:, None]).to(out_ptr.dtype.element_ty), mask=(rows < NUM_TOKENS)[:, None])


@triton.jit
def _one_tile(
    query_ptr, key_ptr, value_ptr, out_ptr, first, QUERY_STRIDE: tl.constexpr, KEY_STRIDE: tl.constexpr,
    VALUE_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, NUM_TOKENS: tl.constexpr, HEAD: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    channels = tl.arange(0, HEAD)
    query = _load(query_ptr, first, channels, QUERY_STRIDE, NUM_TOKENS, QUERIES, False)
    mixed = tl.zeros([QUERIES, HEAD], tl.float32)
    # Eight sums per query, each of every eighth key: they lie in one thread, and threads meet at the end only.
    totals = tl.zeros([QUERIES, 8], tl.float32)
    REST: tl.constexpr = NUM_TOKENS // KEYS * KEYS
    for start in tl.range(0, REST, KEYS, num_stages=STAGES):
        key = _load(key_ptr, start, channels, KEY_STRIDE, NUM_TOKENS, KEYS, True)
        value = _load(value_ptr, start, channels, VALUE_STRIDE, NUM_TOKENS, KEYS, True)
        mixed, totals = _mix(tl.dot(query, key.T), value, mixed, totals, start, NUM_TOKENS, True)
    if REST < NUM_TOKENS:
        key = _load(key_ptr, REST, channels, KEY_STRIDE, NUM_TOKENS, KEYS, False)
        value = _load(value_ptr, REST, channels, VALUE_STRIDE, NUM_TOKENS, KEYS, False)
        mixed, totals = _mix(tl.dot(query, key.T), value, mixed, totals, REST, NUM_TOKENS, False)
    _finish(
        query, mixed, totals, key_ptr, value_ptr, out_ptr, first, channels,
        KEY_STRIDE, VALUE_STRIDE, OUT_STRIDE, NUM_TOKENS, HEAD, QUERIES,
    )  # fmt: skip


@triton.jit
def _two_tiles(
    query_ptr, key_ptr, value_ptr, out_ptr, first, QUERY_STRIDE: tl.constexpr, KEY_STRIDE: tl.constexpr,
    VALUE_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, NUM_TOKENS: tl.constexpr, HEAD: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    channels = tl.arange(0, HEAD)
    query_a = _load(query_ptr, first, channels, QUERY_STRIDE, NUM_TOKENS, QUERIES, True)
    query_b = _load(query_ptr, first + QUERIES, channels, QUERY_STRIDE, NUM_TOKENS, QUERIES, False)
    mixed_a, mixed_b = tl.zeros([QUERIES, HEAD], tl.float32), tl.zeros([QUERIES, HEAD], tl.float32)
    totals_a, totals_b = tl.zeros([QUERIES, 8], tl.float32), tl.zeros([QUERIES, 8], tl.float32)
    REST: tl.constexpr = NUM_TOKENS // KEYS * KEYS
    for start in tl.range(0, REST, KEYS, num_stages=STAGES):
        key = _load(key_ptr, start, channels, KEY_STRIDE, NUM_TOKENS, KEYS, True)
        value = _load(value_ptr, start, channels, VALUE_STRIDE, NUM_TOKENS, KEYS, True)
        logits_a, logits_b = tl.dot(query_a, key.T), tl.dot(query_b, key.T)
        mixed_a, totals_a = _mix(logits_a, value, mixed_a, totals_a, start, NUM_TOKENS, True)
        mixed_b, totals_b = _mix(logits_b, value, mixed_b, totals_b, start, NUM_TOKENS, True)
    if REST < NUM_TOKENS:
        key = _load(key_ptr, REST, channels, KEY_STRIDE, NUM_TOKENS, KEYS, False)
        value = _load(value_ptr, REST, channels, VALUE_STRIDE, NUM_TOKENS, KEYS, False)
        mixed_a, totals_a = _mix(tl.dot(query_a, key.T), value, mixed_a, totals_a, REST, NUM_TOKENS, False)
        mixed_b, totals_b = _mix(tl.dot(query_b, key.T), value, mixed_b, totals_b, REST, NUM_TOKENS, False)
    _finish(
        query_a, mixed_a, totals_a, key_ptr, value_ptr, out_ptr, first, channels,
        KEY_STRIDE, VALUE_STRIDE, OUT_STRIDE, NUM_TOKENS, HEAD, QUERIES,
    )  # fmt: skip
    _finish(
        query_b, mixed_b, totals_b, key_ptr, value_ptr, out_ptr, first + QUERIES, channels,
        KEY_STRIDE, VALUE_STRIDE, OUT_STRIDE, NUM_TOKENS, HEAD, QUERIES,
    )  # fmt: skip


@triton.jit
def _attend(
    query_ptr, key_ptr, value_ptr, out_ptr,
    QUERY_STRIDE: tl.constexpr, KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr,
    NUM_TOKENS: tl.constexpr, NUM_HEADS: tl.constexpr, HEAD: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, TILES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * (TILES * QUERIES)
    query_ptr += batch * NUM_TOKENS * QUERY_STRIDE + head * HEAD
    key_ptr += batch * NUM_TOKENS * KEY_STRIDE + head * HEAD
    value_ptr += batch * NUM_TOKENS * VALUE_STRIDE + head * HEAD
    out_ptr += (batch * NUM_TOKENS * NUM_HEADS + head) * HEAD
    if TILES == 1:
        _one_tile(
            query_ptr, key_ptr, value_ptr, out_ptr, first,
            QUERY_STRIDE, KEY_STRIDE, VALUE_STRIDE, NUM_HEADS * HEAD, NUM_TOKENS, HEAD, QUERIES, KEYS, STAGES,
        )  # fmt: skip
    elif first + QUERIES < NUM_TOKENS:
        _two_tiles(
            query_ptr, key_ptr, value_ptr, out_ptr, first,
            QUERY_STRIDE, KEY_STRIDE, VALUE_STRIDE, NUM_HEADS * HEAD, NUM_TOKENS, HEAD, QUERIES, KEYS, STAGES,
        )  # fmt: skip
    else:
        _one_tile(
            query_ptr, key_ptr, value_ptr, out_ptr, first,
            QUERY_STRIDE, KEY_STRIDE, VALUE_STRIDE, NUM_HEADS * HEAD, NUM_TOKENS, HEAD, QUERIES, KEYS, STAGES,
        )  # fmt: skip


def attend_tokens(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int, tiles: int | None = None
) -> torch.Tensor:
    """See :func:`sam3lt_ray.engine.ops.token_attention.attend_tokens`; sequences may be strided, channels not.

    ``tiles`` of queries, 1 or 2, share a program; None: as measured on an H200, 2 where sequences are long.
    """
    batch, num_tokens, width = query.shape
    out = torch.empty((batch, num_tokens, width), dtype=query.dtype, device=query.device)
    queries, keys = 64, 64
    if tiles is None:
        tiles = 2 if num_tokens > 1024 else 1
    _attend[(triton.cdiv(num_tokens, queries * tiles), num_heads, batch)](
        query, key, value, out, query.stride(1), key.stride(1), value.stride(1),
        num_tokens, num_heads, width // num_heads, queries, keys, tiles, 3, num_warps=4,
    )  # fmt: skip
    return out
