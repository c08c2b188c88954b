"""Mask logits to run lengths, without ever holding all masks at image size.

The masks are those of transformers' post-processing: sigmoid, bilinear interpolation to the image's size, comparison
with the threshold. What leaves the device is the positions at which a mask, read column by column, changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from sam3lt_ray.masks.rle import compress_counts
from sam3lt_ray.records import Rle

_MOST_PIXELS_CPU: Final = 1 << 22
_MOST_PIXELS_CUDA: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class EncodedMask:
    """A mask as run lengths, and its number of pixels (0 where nothing at image size is above the threshold)."""

    rle: Rle
    area: int


def encode_masks(
    logits: torch.Tensor, size_hw: tuple[int, int], threshold: float, *, most_pixels: int | None = None
) -> list[EncodedMask]:
    """Turns mask logits of one image into run lengths.

    Args:
        logits: float32 [n, H, W], at the model's resolution.
        size_hw: Size of the image in pixels.
        threshold: On probabilities.
        most_pixels: Dense pixels held at a time, apart from single columns; None: as suits the device. A mask that is
            larger than that is done in strips of columns.

    Returns:
        One entry per mask, in order.
    """
    if len(logits) == 0:
        return []
    height, width = size_hw
    if most_pixels is None:
        most_pixels = _MOST_PIXELS_CUDA if logits.device.type == "cuda" else _MOST_PIXELS_CPU
    probabilities = logits.sigmoid()
    masks_at_once = most_pixels // (height * width)
    if masks_at_once == 0:
        columns_at_once = max(1, most_pixels // height)
        return [_encode_by_strips(one, size_hw, threshold, columns_at_once) for one in probabilities]
    encoded: list[EncodedMask] = []
    for some in torch.split(probabilities, masks_at_once):
        # Masks as channels, as in the post-processing: the other way round torch rounds differently in the last bit.
        dense = functional.interpolate(some[None], size=size_hw, mode="bilinear", align_corners=False)[0]
        # One background pixel in front: then every run, also a first one of foreground, begins with a change.
        by_column = torch.zeros((len(some), 1 + width * height), dtype=torch.bool, device=logits.device)
        torch.unflatten(by_column[:, 1:], 1, (width, height)).copy_((dense > threshold).transpose(1, 2))
        changes = (by_column[:, 1:] != by_column[:, :-1]).nonzero().cpu().numpy()
        bounds = np.searchsorted(changes[:, 0], np.arange(len(some) + 1))
        encoded += [_from_changes(changes[first:last, 1], size_hw) for first, last in pairwise(bounds.tolist())]
    return encoded


def _encode_by_strips(
    probability: torch.Tensor, size_hw: tuple[int, int], threshold: float, columns_at_once: int
) -> EncodedMask:
    height, width = size_hw
    rows_above, rows_below, row_weight = _taps(height, probability.shape[0], probability.device)
    columns_left, columns_right, column_weight = _taps(width, probability.shape[1], probability.device)
    last = torch.zeros(1, dtype=torch.bool, device=probability.device)
    changes: list[npt.NDArray[np.int64]] = []
    for start in range(0, width, columns_at_once):
        strip = slice(start, start + columns_at_once)
        left, right = probability[:, columns_left[strip]], probability[:, columns_right[strip]]
        narrow = (1 - column_weight[strip]) * left + column_weight[strip] * right
        weight = row_weight[:, None]
        dense = (1 - weight) * narrow[rows_above] + weight * narrow[rows_below]
        by_column = torch.cat([last, (dense > threshold).t().flatten()])
        changes.append((by_column[1:] != by_column[:-1]).nonzero()[:, 0].cpu().numpy() + start * height)
        last = by_column[-1:]
    return _from_changes(np.concatenate(changes), size_hw)


def _taps(size: int, source_size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bilinear interpolation without aligned corners: the two source positions and the second one's weight."""
    position = (torch.arange(size, device=device).float() + 0.5) * (source_size / size) - 0.5
    position = position.clamp(min=0)
    first = position.floor().long().clamp(max=source_size - 1)
    return first, (first + 1).clamp(max=source_size - 1), position - first


def _from_changes(positions: npt.NDArray[np.int64], size_hw: tuple[int, int]) -> EncodedMask:
    height, width = size_hw
    counts = np.diff(positions, prepend=0, append=height * width)
    return EncodedMask(compress_counts(counts, size_hw), int(counts[1::2].sum()))
