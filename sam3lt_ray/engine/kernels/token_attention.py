"""Attention of image tokens among themselves without the running maximum.

With few channels per head this attention is bound by exponentials and the comparisons around them, not by products. A
softmax does not depend on what is subtracted in the exponent as long as nothing overflows or vanishes. So each tile of
queries is computed with exp2 of the plain logits, and the sums, kept in float32, show afterwards whether the range was
kept; where not, the tile is computed again with the running maximum of Milakov and Gimelshein (arXiv 1805.02867), as
flash attention does for every tile.
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
# Of what is done again, which is rare. Few, so that this second way does not raise the registers that the first one has to
# leave to other tiles (154 instead of 188 for tiles of 128 queries, which makes it three of them per multiprocessor).
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
def _attend(
    query_ptr, key_ptr, value_ptr, out_ptr,
    QUERY_STRIDE: tl.constexpr, KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr,
    NUM_TOKENS: tl.constexpr, NUM_HEADS: tl.constexpr, HEAD: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channels = tl.arange(0, HEAD)
    in_range = (rows < NUM_TOKENS)[:, None]
    query_ptr += batch * NUM_TOKENS * QUERY_STRIDE + head * HEAD
    key_ptr += batch * NUM_TOKENS * KEY_STRIDE + head * HEAD
    value_ptr += batch * NUM_TOKENS * VALUE_STRIDE + head * HEAD
    query = tl.load(query_ptr + rows[:, None] * QUERY_STRIDE + channels[None, :], mask=in_range, other=0.0)

    mixed = tl.zeros([QUERIES, HEAD], tl.float32)
    # Eight sums per query, one for every eighth key: those lie in one thread each, and threads exchange them once only.
    totals = tl.zeros([QUERIES, 8], tl.float32)
    WHOLE: tl.constexpr = NUM_TOKENS // KEYS * KEYS
    for start in tl.range(0, WHOLE, KEYS, num_stages=STAGES):
        tokens = start + tl.arange(0, KEYS)
        key = tl.load(key_ptr + tokens[:, None] * KEY_STRIDE + channels[None, :])
        value = tl.load(value_ptr + tokens[:, None] * VALUE_STRIDE + channels[None, :])
        weights = exp2(tl.dot(query, key.T))
        totals += tl.sum(tl.reshape(weights, [QUERIES, KEYS // 8, 8]), 1)
        mixed = tl.dot(weights.to(value.dtype), value, mixed)
    if WHOLE < NUM_TOKENS:
        tokens = WHOLE + tl.arange(0, KEYS)
        valid = tokens < NUM_TOKENS
        key = tl.load(key_ptr + tokens[:, None] * KEY_STRIDE + channels[None, :], mask=valid[:, None], other=0.0)
        value = tl.load(value_ptr + tokens[:, None] * VALUE_STRIDE + channels[None, :], mask=valid[:, None], other=0.0)
        weights = tl.where(valid[None, :], exp2(tl.dot(query, key.T)), 0.0)
        totals += tl.sum(tl.reshape(weights, [QUERIES, KEYS // 8, 8]), 1)
        mixed = tl.dot(weights.to(value.dtype), value, mixed)
    total = tl.sum(totals, 1)
    trusted = (total > LEAST_SUM) & (total < MOST_SUM)  # false for NaN
    if tl.min(trusted.to(tl.int32), 0) == 0:
        mixed, total = _with_running_maximum(
            query, key_ptr, value_ptr, KEY_STRIDE, VALUE_STRIDE, NUM_TOKENS, HEAD, QUERIES, FEW_KEYS
        )
    out_ptr += (batch * NUM_TOKENS * NUM_HEADS + head) * HEAD
    at = rows[:, None] * (NUM_HEADS * HEAD) + channels[None, :]
    tl.store(out_ptr + at, (mixed / total[:, None]).to(out_ptr.dtype.element_ty), mask=in_range)


def attend_tokens(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """See :func:`sam3lt_ray.engine.ops.token_attention.attend_tokens`; sequences may be strided, channels not."""
    batch, num_tokens, width = query.shape
    out = torch.empty((batch, num_tokens, width), dtype=query.dtype, device=query.device)
    # Measured on an H100 and an H200: large tiles for long sequences, small ones otherwise.
    queries, keys = (128 if num_tokens > 1024 else 64), 64
    _attend[(triton.cdiv(num_tokens, queries), num_heads, batch)](
        query, key, value, out, query.stride(1), key.stride(1), value.stride(1),
        num_tokens, num_heads, width // num_heads, queries, keys, 3, num_warps=4,
    )  # fmt: skip
    return out
