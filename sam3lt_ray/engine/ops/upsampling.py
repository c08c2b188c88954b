"""The mask head's upsampling: phases put together, group norm, and the product with mask queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from sam3lt_ray.engine.ops.dispatch import is_power_of_two, uses_kernels


@dataclass(frozen=True, slots=True)
class GroupNorm:
    """Group normalization (arXiv 1803.08494), always computed in float32.

    Attributes:
        num_groups: Groups of neighbouring channels.
        weight, bias: float32 [C].
        eps: Added to the variance.
    """

    num_groups: int
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Unnormalized:
    """What group norm is still to be applied to.

    Attributes:
        values: [n, C, h, w].
        mean, scale: Of each group, scale being 1 / standard deviation, float32 [n, groups]; None: not yet known.
    """

    values: torch.Tensor
    mean: torch.Tensor | None
    scale: torch.Tensor | None


def interleave(phases: torch.Tensor, image_parts: torch.Tensor, images: torch.Tensor, norm: GroupNorm) -> Unnormalized:
    """Puts the four phases of an upsampling together and adds each pair's image part.

    Args:
        phases: [n, 4 C, h + 1, w + 1]; channels by row parity, column parity, channel. The result's pixel (y, x) is
            phase (y mod 2, x mod 2) at ((y + 1) div 2, (x + 1) div 2).
        image_parts: [B, C, 2 h, 2 w].
        images: Which of them, int [n].
        norm: What follows.
    """
    _, channels, height, width = image_parts.shape
    if uses_kernels(phases.device, phases.dtype) and is_power_of_two(channels, 16) and is_power_of_two(norm.num_groups):
        from sam3lt_ray.engine.kernels import upsampling

        return Unnormalized(
            *upsampling.interleave(
                phases.contiguous(memory_format=torch.channels_last),
                image_parts.contiguous(memory_format=torch.channels_last),
                images,
                norm.num_groups,
                norm.eps,
            )
        )
    by_parity = torch.unflatten(phases, 1, (2, 2, channels))
    summed = image_parts[images]
    for row in (0, 1):
        for column in (0, 1):
            summed[:, :, row::2, column::2] += by_parity[
                :, row, column, :, row : row + height // 2, column : column + width // 2
            ]
    return Unnormalized(summed, None, None)


def norm_relu(summed: Unnormalized, norm: GroupNorm) -> torch.Tensor:
    """Group norm and ReLU, [n, C, h, w]; may overwrite its input."""
    values = summed.values
    if summed.mean is not None and summed.scale is not None:
        from sam3lt_ray.engine.kernels import upsampling

        return upsampling.norm_relu(values, summed.mean, summed.scale, norm.weight, norm.bias)
    normed = functional.group_norm(values.float(), norm.num_groups, norm.weight, norm.bias, norm.eps)
    return functional.relu_(normed.to(values.dtype))


def mask_logits(summed: Unnormalized, norm: GroupNorm, queries: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Group norm, ReLU, and the product with mask queries.

    Args:
        summed: Of n pairs.
        norm: Its norm.
        queries: [n, k, C] in the dtype of the features.
        offsets: Added to each query's logits, float32 [n, k].

    Returns:
        float32 [n, k, h, w].
    """
    if summed.mean is not None and summed.scale is not None:
        from sam3lt_ray.engine.kernels import upsampling

        count = queries.shape[1]
        room = -count % 16
        padded, padded_offsets = functional.pad(queries, (0, 0, 0, room)), functional.pad(offsets, (0, room))
        return upsampling.mask_logits(
            summed.values, summed.mean, summed.scale, norm.weight, norm.bias, padded, padded_offsets
        )[:, :count]
    features = norm_relu(summed, norm)
    logits = torch.bmm(queries, features.flatten(2)).float() + offsets[..., None]
    return torch.unflatten(logits, 2, features.shape[2:])
