"""Mask logits to run lengths, holding few masks at image size at a time and waiting for none.

The masks are those of transformers' post-processing, to the bit: sigmoid, torch's bilinear interpolation to the image's
size, comparison with the threshold. What leaves the device is the positions at which a mask, read column by column,
changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from sam3lt_ray.engine.ops.mask_changes import MaskChanges
from sam3lt_ray.masks.rle import compress_counts
from sam3lt_ray.records import Rle

# Pixels held at image size at a time; of a larger image one mask is held.
_MOST_PIXELS_CPU: Final = 1 << 22
_MOST_PIXELS_CUDA: Final = 1 << 26
# Room for a mask's changes, where they are found without asking how many there are: every column may cross so many
# outlines. That is 384 kB for a mask 12000 pixels wide; one with more is computed a second time.
_CHANGES_PER_COLUMN: Final = 8
_FEW_CHANGES: Final = 2048  # of narrow images, whose columns are long


@dataclass(frozen=True, slots=True)
class EncodedMask:
    """A mask as run lengths, and its number of pixels (0 where nothing at image size is above the threshold)."""

    rle: Rle
    area: int


class MaskEncoding:
    """Masks of one image on their way to run lengths; the device is asked at once, the host when it wants them.

    Args:
        logits: float32 [n, H, W], at the model's resolution.
        size_hw: Size of the image in pixels.
        threshold: On probabilities.
        most_pixels: Dense pixels held at a time; None: as suits the device.
    """

    def __init__(
        self, logits: torch.Tensor, size_hw: tuple[int, int], threshold: float, *, most_pixels: int | None = None
    ) -> None:
        self._size_hw = size_hw
        if most_pixels is None:
            most_pixels = _MOST_PIXELS_CUDA if logits.is_cuda else _MOST_PIXELS_CPU
        masks_at_once = max(1, most_pixels // (size_hw[0] * size_hw[1]))
        self._pieces = [
            MaskChanges(partial(_probabilities, some, size_hw), threshold, len(some) * _expected_changes(size_hw))
            for some in torch.split(logits, masks_at_once)
            if len(some)
        ]

    def lacks_room(self) -> bool:
        """Waits until the device has counted; whether masks have more changes than there was room for."""
        return any(piece.lacks_room() for piece in self._pieces)

    def make_room(self) -> None:
        """Asks the device for those masks again, which :meth:`wait` would do otherwise."""
        for piece in self._pieces:
            piece.make_room()

    def wait(self) -> list[EncodedMask]:
        """One entry per mask, in order."""
        return [_from_changes(changes, self._size_hw) for piece in self._pieces for changes in piece.wait()]


def _expected_changes(size_hw: tuple[int, int]) -> int:
    height, width = size_hw
    return min(height * width, _CHANGES_PER_COLUMN * width + _FEW_CHANGES)


def _probabilities(logits: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    # Masks as channels, as in the post-processing: the other way round torch rounds differently in the last bit.
    return functional.interpolate(logits.sigmoid()[None], size=size_hw, mode="bilinear", align_corners=False)[0]


def _from_changes(positions: npt.NDArray[np.int32], size_hw: tuple[int, int]) -> EncodedMask:
    height, width = size_hw
    counts = np.diff(positions, prepend=0, append=height * width)
    return EncodedMask(compress_counts(counts, size_hw), int(counts[1::2].sum()))
