"""One pass over black images, so that everything is compiled and chosen before the first real one."""

from __future__ import annotations

import numpy as np
import torch

from sam3lt_ray.engine.image_batch import ModelParts
from sam3lt_ray.engine.pairs import make_pairs
from sam3lt_ray.engine.runs import MaskEncoding

_SIZE_HW = (9, 7)


def warm_up(parts: ModelParts, image_size: int, device: torch.device) -> None:
    """Runs every part of the model once; what Triton compiles is found on disk by the next process.

    Args:
        parts: The model.
        image_size: Side of its images in pixels.
        device: Where it is.
    """
    pixels = torch.zeros((2, image_size, image_size, 3), dtype=torch.uint8, device=device)
    features = parts.vision.encode(pixels)
    pairs = make_pairs(np.array([(0, 0), (1, 0)], np.int32), device)
    found = parts.grounding.ground(parts.grounding.start(features.tokens), pairs)
    image_parts = parts.mask_head.image_parts(parts.vision.fine_features(features.backbone))
    logits = parts.mask_head.logits(found.memory, pairs.prompts, image_parts, pairs.images, found.queries[:, :1])
    MaskEncoding(logits[0], _SIZE_HW, parts.mask_threshold).wait()
