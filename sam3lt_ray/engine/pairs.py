"""Pairs of an image and a prompt: what is grounded together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sam3lt_ray.engine.transfers import to_device


@dataclass(frozen=True, slots=True)
class Pairs:
    """Some pairs, image by image, on the device.

    Attributes:
        images: Positions in the batch of images, int32 [n].
        prompts: Positions in the vocabulary, int32 [n].
    """

    images: torch.Tensor
    prompts: torch.Tensor


def make_pairs(image_prompt: npt.NDArray[np.int32], device: torch.device) -> Pairs:
    """Pairs from int32 [n, 2] of (image, prompt)."""
    images, prompts = to_device(image_prompt.T, device)
    return Pairs(images, prompts)
