"""The mask head's upsampling, channels last: phases put together, group norm, and the product with mask queries."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["images_ptr"])  # a row of a small array: begins anywhere
def _interleave(
    phases_ptr, image_part_ptr, images_ptr, out_ptr, partial_ptr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """HEIGHT, WIDTH of the result; phases are [n, HEIGHT / 2 + 1, WIDTH / 2 + 1, 4 * CHANNELS]."""
    pair, block = tl.program_id(1), tl.program_id(0)
    image = tl.load(images_ptr + pair).to(tl.int64)
    pixels = block * PIXELS + tl.arange(0, PIXELS)
    valid = (pixels < HEIGHT * WIDTH)[:, None]
    y, x = pixels // WIDTH, pixels % WIDTH
    phase = (y % 2) * 2 + x % 2
    row, column = y // 2 + y % 2, x // 2 + x % 2
    channels = tl.arange(0, CHANNELS)
    source = (pair.to(tl.int64) * (HEIGHT // 2 + 1) + row) * (WIDTH // 2 + 1) + column
    values = tl.load(
        phases_ptr + ((source * 4 + phase) * CHANNELS)[:, None] + channels[None, :], mask=valid, other=0.0
    ).to(tl.float32)
    inside = pixels[:, None] * CHANNELS + channels[None, :]
    values += tl.load(image_part_ptr + image * HEIGHT * WIDTH * CHANNELS + inside, mask=valid, other=0.0).to(tl.float32)
    rounded = values.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + pair.to(tl.int64) * HEIGHT * WIDTH * CHANNELS + inside, rounded, mask=valid)
    values = tl.where(valid, rounded.to(tl.float32), 0.0)
    by_group = tl.reshape(tl.sum(values, 0), [GROUPS, CHANNELS // GROUPS])
    squares = tl.reshape(tl.sum(values * values, 0), [GROUPS, CHANNELS // GROUPS])
    groups = tl.arange(0, GROUPS)
    at = partial_ptr + ((pair * tl.num_programs(0) + block) * 2) * GROUPS + groups
    tl.store(at, tl.sum(by_group, 1))
    tl.store(at + GROUPS, tl.sum(squares, 1))


def interleave(
    phases: torch.Tensor, image_parts: torch.Tensor, images: torch.Tensor, num_groups: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Phases [n, 4 C, h + 1, w + 1] and image parts [B, C, 2h, 2w], channels last, to their sum and its statistics.

    Returns:
        Sum [n, C, 2h, 2w] channels last; mean and 1 / standard deviation of each group, float32 [n, groups].
    """
    num_pairs = phases.shape[0]
    _, channels, height, width = image_parts.shape
    out = torch.empty(
        (num_pairs, channels, height, width), dtype=phases.dtype, device=phases.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    pixels = 32
    blocks = triton.cdiv(height * width, pixels)
    partial = torch.empty((num_pairs, blocks, 2, num_groups), dtype=torch.float32, device=phases.device)
    _interleave[(blocks, num_pairs)](
        phases, image_parts, images, out, partial, height, width, channels, num_groups, pixels, num_warps=4
    )
    # In float64: the variance is a small difference of large sums.
    mean, square = (partial.sum(dim=1, dtype=torch.float64) / (height * width * channels // num_groups)).unbind(1)
    scale = (square - mean * mean).clamp(min=0).add(eps).rsqrt()
    return out, mean.float(), scale.float()


@triton.jit
def _normalized(
    values_ptr, mean_ptr, scale_ptr, weight_ptr, bias_ptr, pair, pixels, valid, channels,
    NUM_PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    at = pair.to(tl.int64) * NUM_PIXELS * CHANNELS + pixels[:, None] * CHANNELS + channels[None, :]
    values = tl.load(values_ptr + at, mask=valid[:, None], other=0.0).to(tl.float32)
    group = pair * GROUPS + channels // (CHANNELS // GROUPS)
    mean, scale = tl.load(mean_ptr + group), tl.load(scale_ptr + group) * tl.load(weight_ptr + channels)
    normed = (values - mean[None, :]) * scale[None, :] + tl.load(bias_ptr + channels)[None, :]
    return at, tl.maximum(normed, 0.0).to(values_ptr.dtype.element_ty)


@triton.jit
def _norm_relu(
    values_ptr, mean_ptr, scale_ptr, weight_ptr, bias_ptr,
    NUM_PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    valid = pixels < NUM_PIXELS
    at, normed = _normalized(
        values_ptr, mean_ptr, scale_ptr, weight_ptr, bias_ptr, tl.program_id(1), pixels, valid, tl.arange(0, CHANNELS),
        NUM_PIXELS, CHANNELS, GROUPS,
    )  # fmt: skip
    tl.store(values_ptr + at, normed, mask=valid[:, None])


def norm_relu(
    values: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Group norm with known statistics, then ReLU; [n, C, h, w] channels last, in place."""
    num_pairs, channels, height, width = values.shape
    _norm_relu[(triton.cdiv(height * width, 32), num_pairs)](
        values, mean, scale, weight, bias, height * width, channels, mean.shape[1], 32, num_warps=4
    )
    return values


@triton.jit(do_not_specialize=["most_queries"])
def _mask_logits(
    values_ptr, mean_ptr, scale_ptr, weight_ptr, bias_ptr, queries_ptr, offsets_ptr, out_ptr, most_queries,
    NUM_PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(1)
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    valid = pixels < NUM_PIXELS
    channels = tl.arange(0, CHANNELS)
    _, features = _normalized(
        values_ptr, mean_ptr, scale_ptr, weight_ptr, bias_ptr, pair, pixels, valid, channels,
        NUM_PIXELS, CHANNELS, GROUPS,
    )  # fmt: skip
    row = pair * most_queries + tl.program_id(2) * 16 + tl.arange(0, 16)
    queries = tl.load(queries_ptr + row[None, :] * CHANNELS + channels[:, None])
    logits = tl.dot(features, queries) + tl.load(offsets_ptr + row)[None, :]
    at = row.to(tl.int64)[None, :] * NUM_PIXELS + pixels[:, None]
    tl.store(out_ptr + at, logits, mask=valid[:, None])


def mask_logits(
    values: torch.Tensor,
    mean: torch.Tensor,
    scale: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    queries: torch.Tensor,
    offsets: torch.Tensor,
) -> torch.Tensor:
    """Group norm with known statistics, ReLU, and the product with mask queries.

    Args:
        values: [n, C, h, w], channels last.
        mean: Of :func:`interleave`.
        scale: Of :func:`interleave`.
        weight: Of the group norm, float32 [C].
        bias: Of the group norm, float32 [C].
        queries: [n, k, C] in the dtype of ``values``; k is a multiple of 16.
        offsets: float32 [n, k].

    Returns:
        float32 [n, k, h, w].
    """
    num_pairs, channels, height, width = values.shape
    most_queries = queries.shape[1]
    out = torch.empty((num_pairs, most_queries, height, width), dtype=torch.float32, device=values.device)
    _mask_logits[(triton.cdiv(height * width, 64), num_pairs, most_queries // 16)](
        values, mean, scale, weight, bias, queries, offsets, out, most_queries,
        height * width, channels, mean.shape[1], 64, num_warps=4,
    )  # fmt: skip
    return out
