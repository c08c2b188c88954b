"""Image tokens meet the words of a prompt: residual, norm, folded attention, residual and the next norm in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sam3lt_ray.engine.kernels.normalization import normalize_rows


# Rows of one small array: where they begin depends on how many there are, and that must not compile anything anew.
@triton.jit(do_not_specialize_on_alignment=["prompts_ptr", "images_ptr"])
def _attend(
    x_ptr, delta_ptr, prompts_ptr, images_ptr, before_weight_ptr, before_bias_ptr, keys_ptr, key_bias_ptr, values_ptr,
    after_weight_ptr, after_bias_ptr, sum_ptr, normed_ptr, eps_before: tl.constexpr, eps_after: tl.constexpr,
    NUM_TOKENS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
    ROWS: tl.constexpr, TILES: tl.constexpr, HAS_DELTA: tl.constexpr,
):  # fmt: skip
    """Several tiles of tokens one after the other: the words, as large as four of them, are fetched once for all."""
    pair = tl.program_id(1)
    prompt = tl.load(prompts_ptr + pair).to(tl.int64)
    channels = tl.arange(0, WIDTH)
    columns = tl.arange(0, BLOCK)
    is_word = columns < COLUMNS
    keys_at = prompt * WIDTH * COLUMNS + channels[:, None] * COLUMNS + columns[None, :]
    keys = tl.load(keys_ptr + keys_at, mask=is_word[None, :], other=0.0)
    key_bias = tl.load(key_bias_ptr + prompt * COLUMNS + columns, mask=is_word, other=-float("inf")).to(tl.float32)
    values_at = prompt * WIDTH * COLUMNS + columns[:, None] * WIDTH + channels[None, :]
    values = tl.load(values_ptr + values_at, mask=is_word[:, None], other=0.0)
    before_weight, before_bias = tl.load(before_weight_ptr + channels), tl.load(before_bias_ptr + channels)
    after_weight, after_bias = tl.load(after_weight_ptr + channels), tl.load(after_bias_ptr + channels)
    for tile in range(0, TILES):
        rows = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        valid = (rows < NUM_TOKENS)[:, None]
        inside = rows[:, None] * WIDTH + channels[None, :]
        at = pair.to(tl.int64) * NUM_TOKENS * WIDTH + inside
        if HAS_DELTA:
            x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
            x += tl.load(delta_ptr + at, mask=valid, other=0.0).to(tl.float32)
        else:
            image = tl.load(images_ptr + pair).to(tl.int64)
            x = tl.load(x_ptr + image * NUM_TOKENS * WIDTH + inside, mask=valid, other=0.0).to(tl.float32)
        queries = normalize_rows(x, before_weight, before_bias, eps_before, WIDTH, WIDTH).to(keys.dtype)
        logits = tl.reshape(tl.dot(queries, keys) + key_bias[None, :], [ROWS, BLOCK // HEADS, HEADS])
        weights = tl.exp(logits - tl.max(logits, 1)[:, None, :])
        weights = weights / tl.sum(weights, 1)[:, None, :]
        weights = tl.reshape(weights, [ROWS, BLOCK]).to(values_ptr.dtype.element_ty)
        x += tl.dot(weights, values)

        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=valid)
        normed = normalize_rows(rounded.to(tl.float32), after_weight, after_bias, eps_after, WIDTH, WIDTH)
        tl.store(normed_ptr + at, normed.to(normed_ptr.dtype.element_ty), mask=valid)


def attend_words(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    prompts: torch.Tensor,
    images: torch.Tensor,
    before: tuple[torch.Tensor, torch.Tensor, float],
    keys: torch.Tensor,
    key_bias: torch.Tensor,
    values: torch.Tensor,
    num_heads: int,
    after: tuple[torch.Tensor, torch.Tensor, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`sam3lt_ray.engine.ops.word_attention.attend_words`; norms come as (weight, bias, eps)."""
    _, num_tokens, width = x.shape
    num_pairs = prompts.shape[0]
    total = torch.empty((num_pairs, num_tokens, width), dtype=x.dtype, device=x.device)
    normed = torch.empty_like(total)
    columns = keys.shape[-1]
    block = max(16, triton.next_power_of_2(columns // num_heads) * num_heads)
    rows, tiles = 16, 9
    _attend[(triton.cdiv(num_tokens, rows * tiles), num_pairs)](
        x, x if delta is None else delta, prompts, images, before[0], before[1], keys, key_bias, values,
        after[0], after[1], total, normed, before[2], after[2], num_tokens, width, columns, block, num_heads, rows,
        tiles, delta is not None, num_warps=4, num_stages=1,
    )  # fmt: skip
    return total, normed
