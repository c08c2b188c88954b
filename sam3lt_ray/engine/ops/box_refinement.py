"""Boxes from one decoder layer to the next: refined, and encoded as sine waves."""

from __future__ import annotations

from typing import Final

import torch

from sam3lt_ray.engine.ops.dispatch import uses_kernels

_INVERSE_SIGMOID_EPS: Final = 1e-3  # part of the trained model: refinement starts from clamped logits


def refine_boxes(
    delta: torch.Tensor, boxes: torch.Tensor, factors: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves boxes and says where they are now.

    Args:
        delta: Added to the boxes' logits, float32 [n, Q, 4].
        boxes: (center x, center y, width, height) as shares of the image, float32 [n or 1, Q, 4], contiguous.
        factors: From a coordinate to the angle of each feature, float32 [F].
        dtype: Of the encoding.

    Returns:
        The new boxes, float32 [n, Q, 4], and their encoding, [n, Q, 4 F].
    """
    if uses_kernels(delta.device, dtype):
        from sam3lt_ray.engine.kernels import box_refinement

        return box_refinement.refine_boxes(delta, boxes, factors, _INVERSE_SIGMOID_EPS, dtype)
    refined = (delta + inverse_sigmoid(boxes)).sigmoid()
    return refined, encode_boxes(refined, factors).to(dtype)


def encode_boxes(boxes: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Sine and cosine in turns, of y, x, width and height: [n, Q, 4] to float32 [n, Q, 4 F]."""
    x, y, width, height = boxes.unbind(-1)
    angles = torch.stack([y, x, width, height], dim=-1)[..., None] * factors
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-3)


def inverse_sigmoid(values: torch.Tensor) -> torch.Tensor:
    """Logit of values in [0, 1], clamped near both ends as the model was trained."""
    values = values.clamp(0, 1)
    return (values.clamp(min=_INVERSE_SIGMOID_EPS) / (1 - values).clamp(min=_INVERSE_SIGMOID_EPS)).log()
