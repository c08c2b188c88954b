"""Residual addition and layer normalization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from sam3lt_ray.engine.ops.dispatch import uses_kernels


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalization over the last dimension, always computed in float32.

    Attributes:
        weight, bias: float32 [C].
        eps: Added to the variance.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises the last dimension; keeps the dtype."""
        return self.in_float32(x).to(x.dtype)

    def in_float32(self, x: torch.Tensor) -> torch.Tensor:
        """The same, not rounded back to the dtype of ``x``."""
        return functional.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps)


def add_norm(x: torch.Tensor, delta: torch.Tensor | None, norm: LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """A residual addition and the normalization that follows.

    Args:
        x: [..., C], contiguous.
        delta: The same, or None: nothing is added.
        norm: What follows.

    Returns:
        (x + delta, norm(x + delta)), in the dtype of ``x``.
    """
    if uses_kernels(x.device, x.dtype):
        from sam3lt_ray.engine.kernels import normalization

        total, normed, _ = normalization.add_norm(x, delta, norm.weight, norm.bias, norm.eps)
        return total, normed
    total = x if delta is None else x + delta
    return total, norm(total)


def add_norm_place(
    x: torch.Tensor, delta: torch.Tensor | None, norm: LayerNorm, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`add_norm`, and the result with positions added.

    Args:
        x: [n, N, C], contiguous.
        delta: The same, or None.
        norm: What follows.
        positions: Position encoding, [N, C], [1, N, C] or [n, N, C].

    Returns:
        (x + delta, norm(x + delta), norm(x + delta) + positions), in the dtype of ``x``.
    """
    if uses_kernels(x.device, x.dtype):
        from sam3lt_ray.engine.kernels import normalization

        return normalization.add_norm(x, delta, norm.weight, norm.bias, norm.eps, positions)
    total = x if delta is None else x + delta
    normed = norm.in_float32(total)
    return total, normed.to(x.dtype), (normed + positions).to(x.dtype)


def add_place(x: torch.Tensor, delta: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A residual addition with nothing behind it but positions.

    Args:
        x: [n, N, C], contiguous.
        delta: The same.
        positions: Position encoding, float32 [N, C].

    Returns:
        (x + delta, x + delta + positions), in the dtype of ``x``.
    """
    if uses_kernels(x.device, x.dtype):
        from sam3lt_ray.engine.kernels import normalization

        return normalization.add_place(x, delta, positions)
    total = x + delta
    return total, (total + positions).to(x.dtype)
