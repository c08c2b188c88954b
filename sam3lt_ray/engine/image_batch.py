"""One batch of images on its way through the model: collects, image by image, what prompt after prompt finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from sam3lt_ray.engine.grounding import GroundedPairs, Grounding
from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.runs import encode_masks
from sam3lt_ray.engine.vision import ImageFeatures, VisionEncoder
from sam3lt_ray.records import Detection, ImageDetections

_SATURATED_SHARE: Final = 0.9
_MASK_PAIRS_CPU: Final = 2
_MASK_PAIRS_CUDA: Final = 8


class ImageBatch:
    """The state of a batch of images.

    Args:
        vision, grounding, mask_head: The parts of the model.
        pixels_bhwc: uint8 [B, S, S, 3] on the device.
        sizes_hw: Size of each image in pixels.
        num_prompts: Size of the vocabulary.
        score_floor: Scores up to it are dropped.
        mask_threshold: On mask probabilities.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        grounding: Grounding,
        mask_head: MaskHead,
        pixels_bhwc: torch.Tensor,
        sizes_hw: Sequence[tuple[int, int]],
        *,
        num_prompts: int,
        score_floor: float,
        mask_threshold: float,
    ) -> None:
        self._vision, self._grounding, self._mask_head = vision, grounding, mask_head
        self._sizes_hw = sizes_hw
        self._score_floor, self._mask_threshold = score_floor, mask_threshold
        self._features: ImageFeatures = vision.encode(pixels_bhwc)
        self._started = grounding.start(self._features.tokens)
        self._image_parts: dict[int, list[torch.Tensor]] = {}
        self._presence: npt.NDArray[np.float32] = np.zeros((len(sizes_hw), num_prompts), np.float32)
        self._saturated: npt.NDArray[np.bool_] = np.zeros((len(sizes_hw), num_prompts), np.bool_)
        self._detections: list[list[Detection]] = [[] for _ in sizes_hw]

    def add_prompts(self, prompts: slice) -> None:
        """Finds the instances of some prompts in all images."""
        pairs = self._grounding.ground(self._started, prompts)
        scores = pairs.scores.cpu().numpy()
        boxes = pairs.boxes_xyxy.cpu().numpy()
        kept = scores > np.float32(self._score_floor)
        self._presence[:, prompts] = pairs.presence.cpu().numpy().T
        self._saturated[:, prompts] = kept.mean(axis=-1).T >= _SATURATED_SHARE
        found = np.argwhere(kept.any(axis=-1).T)  # rows of (image, prompt in this batch), image by image
        on_cuda = pairs.memory.device.type == "cuda"
        pairs_at_once = _MASK_PAIRS_CUDA if on_cuda else _MASK_PAIRS_CPU
        for start in range(0, len(found), pairs_at_once):
            some = found[start : start + pairs_at_once]
            self._add_pairs(pairs, some, scores, boxes, kept, first_prompt=prompts.start)

    def results(self) -> list[ImageDetections]:
        """What was found so far, image by image."""
        return [
            ImageDetections(presence, saturated, sorted(detections, key=lambda one: (one.prompt, -one.score)))
            for presence, saturated, detections in zip(self._presence, self._saturated, self._detections, strict=True)
        ]

    def _add_pairs(
        self,
        pairs: GroundedPairs,
        image_prompt: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
        boxes: npt.NDArray[np.float32],
        kept: npt.NDArray[np.bool_],
        *,
        first_prompt: int,
    ) -> None:
        images, prompts = image_prompt[:, 0].tolist(), image_prompt[:, 1].tolist()
        device = pairs.memory.device
        features = self._mask_head.pixel_features(
            torch.stack([pairs.memory[prompt, image] for image, prompt in zip(images, prompts, strict=True)]),
            torch.tensor(prompts, device=device) + first_prompt,
            self._gather_image_parts(images),
        )
        for row, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            queries = np.flatnonzero(kept[prompt, image])
            chosen = pairs.queries[prompt, image][torch.from_numpy(queries).to(device)]
            logits = self._mask_head.mask_logits(chosen, features[row])
            height, width = self._sizes_hw[image]
            masks = encode_masks(logits, (height, width), self._mask_threshold)
            scale = np.array([width, height, width, height], dtype=np.float32)
            for query, mask in zip(queries.tolist(), masks, strict=True):
                left, top, right, bottom = (boxes[prompt, image, query] * scale).tolist()
                self._detections[image].append(
                    Detection(
                        prompt=first_prompt + prompt,
                        score=float(scores[prompt, image, query]),
                        box_xyxy=(left, top, right, bottom),
                        area=mask.area,
                        mask=mask.rle,
                    )
                )

    def _gather_image_parts(self, images: list[int]) -> list[torch.Tensor]:
        for image in images:
            if image not in self._image_parts:
                fine = self._vision.fine_features(self._features.backbone[image : image + 1])
                self._image_parts[image] = self._mask_head.image_parts(fine)
        # cat copies, as it must: the mask head adds to these maps in place
        per_stage = zip(*(self._image_parts[image] for image in images), strict=True)
        return [torch.cat(parts) for parts in per_stage]
