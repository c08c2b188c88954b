"""Pixels to the vision transformer's first tokens."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn import functional

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import place

_ALIGNMENT: Final = 8  # values; rows that begin at multiples of 16 bytes are what matrix units read fastest


class PatchEmbedding:
    """A patch's pixels times a matrix, plus the position's embedding.

    The convolution over patches is a matrix product once the pixels of a patch lie side by side, and the division by
    the standard deviation is part of the matrix. What is left of the normalisation, subtracting 255 x mean, is exact in
    bf16 for the usual mean of a half: differences are multiples of a half up to 127.5.

    Args:
        module: The transformer's ``embeddings``.
        checkpoint: For image size and normalisation.
        order: Which patch, counted row by row, is wanted where; int64 [N].
        placement: Where to compute.
    """

    def __init__(self, module: Any, checkpoint: Checkpoint, order: torch.Tensor, placement: Placement) -> None:
        weight = place(module.patch_embeddings.projection.weight, placement, torch.float32)  # [C, 3, patch, patch]
        levels_255 = 255 * torch.tensor([checkpoint.image_mean, checkpoint.image_std], device=placement.device)
        self._patch_size: int = weight.shape[-1]
        self._mean, std = levels_255
        matrix = (weight / std[None, :, None, None]).permute(0, 2, 3, 1).flatten(1)
        self._room = -matrix.shape[1] % _ALIGNMENT
        self._matrix = place(functional.pad(matrix, (0, self._room)), placement)
        side = checkpoint.image_size // self._patch_size
        positions = module._tile_position_embeddings(module.position_embeddings, side, side)
        self._positions = place(positions[0], placement)[order]
        self._order = order
        self._dtype = placement.dtype

    def __call__(self, pixels_bhwc: torch.Tensor) -> torch.Tensor:
        """uint8 [B, S, S, 3] to [B, N, C]."""
        size = self._patch_size
        side = pixels_bhwc.shape[1] // size
        patches = pixels_bhwc[:, : side * size, : side * size].unflatten(2, (side, size)).unflatten(1, (side, size))
        by_patch = patches.transpose(2, 3).flatten(1, 2)[:, self._order]  # [B, N, patch, patch, 3]
        values = (by_patch.float() - self._mean).to(self._dtype).flatten(2)
        return functional.linear(functional.pad(values, (0, self._room)), self._matrix) + self._positions
