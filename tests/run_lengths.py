"""What run lengths are held to: pycocotools on the masks that transformers' post-processing makes."""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as coco_mask

from sam3lt_ray.engine.runs import MaskEncoding


def assert_to_the_bit(
    logits: torch.Tensor, size_hw: tuple[int, int], threshold: float, most_pixels: int | None = None
) -> None:
    """The engine's run lengths of float32 [n, H, W] are pycocotools' of sigmoid, interpolation and threshold."""
    dense = torch.nn.functional.interpolate(logits.sigmoid()[None], size_hw, mode="bilinear", align_corners=False)[0]
    masks = (dense > threshold).to(torch.uint8).cpu().numpy()
    encoded = MaskEncoding(logits, size_hw, threshold, most_pixels=most_pixels).wait()
    assert len(encoded) == len(masks)
    for one, mask in zip(encoded, masks, strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask))
        assert one.rle.counts == expected["counts"].decode()
        assert one.rle.size == size_hw
        assert one.area == int(mask.sum())
