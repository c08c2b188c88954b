"""One batch of images on its way through the model: collects, image by image, what pair after pair finds.

The device is always asked for more before the host looks at what it has found: a chunk of pairs is settled (which
masks are wanted?) while the next one is being computed, and run lengths are fetched when somebody wants them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from sam3lt_ray.engine.busy_time import BusyTime
from sam3lt_ray.engine.grounding import GroundedPairs, Grounding
from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.pairs import make_pairs
from sam3lt_ray.engine.runs import MaskEncoding
from sam3lt_ray.engine.transfers import HostCopy, to_device, to_host
from sam3lt_ray.engine.vision import ImageFeatures, VisionEncoder
from sam3lt_ray.records import Detection, ImageDetections

_SATURATED_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class ModelParts:
    """The model with its vocabulary, in the order in which it is run."""

    vision: VisionEncoder
    grounding: Grounding
    mask_head: MaskHead
    num_prompts: int
    score_floor: float
    mask_threshold: float


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Pairs that are being grounded, and what of them is on its way to the host."""

    image_prompt: npt.NDArray[np.int32]
    pairs: GroundedPairs
    scores: HostCopy
    boxes: HostCopy
    presence: HostCopy


@dataclass(frozen=True, slots=True)
class _Found:
    """One pair that has instances; the score and the box (shares of the image) of each."""

    row: int
    image: int
    prompt: int
    queries: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    boxes_xyxy: npt.NDArray[np.float32]


class ImageBatch:
    """The state of a batch of images.

    Args:
        parts: The model.
        busy: Counts the device's time.
        pixels: B images, each uint8 [S, S, 3].
        sizes_hw: Size of each image in pixels.
        device: Where the model is.
    """

    def __init__(
        self,
        parts: ModelParts,
        busy: BusyTime,
        pixels: Sequence[npt.NDArray[np.uint8]],
        sizes_hw: Sequence[tuple[int, int]],
        device: torch.device,
    ) -> None:
        self._parts, self._busy = parts, busy
        self._sizes_hw = sizes_hw
        self._device = device
        with busy.section():
            self._features: ImageFeatures = parts.vision.encode(to_device(np.stack(pixels), device))
            self._started = parts.grounding.start(self._features.tokens)
        self._image_parts: dict[int, list[torch.Tensor]] = {}
        shape = (len(sizes_hw), parts.num_prompts)
        self._presence: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
        self._saturated: npt.NDArray[np.bool_] = np.zeros(shape, np.bool_)
        self._chunks: deque[_Chunk] = deque()
        self._encodings: list[tuple[list[_Found], MaskEncoding]] = []

    @property
    def num_pairs(self) -> int:
        """Pairs there are in all, counted image by image."""
        return self._presence.size

    @property
    def num_unsettled(self) -> int:
        """Chunks that were grounded and not yet looked at."""
        return len(self._chunks)

    def ground(self, first: int, last: int) -> None:
        """Has pairs grounded; does not wait for it."""
        numbers = np.arange(first, last, dtype=np.int32)
        image_prompt = np.stack(np.divmod(numbers, np.int32(self._parts.num_prompts)), axis=1)
        with self._busy.section():
            pairs = self._parts.grounding.ground(self._started, make_pairs(image_prompt, self._device))
            copies = to_host(pairs.scores), to_host(pairs.boxes_xyxy), to_host(pairs.presence)
        self._chunks.append(_Chunk(image_prompt, pairs, *copies))

    def wait(self) -> None:
        """Waits until everything that was grounded can be settled."""
        for chunk in tuple(self._chunks):
            chunk.scores.wait()

    def settle(self, masks_at_once: int) -> None:
        """Waits for the oldest chunk's scores and has the masks made that they ask for.

        Args:
            masks_at_once: Pairs that go through the mask head together. When that is too much for the memory, calling
                again with less goes on where it ended.
        """
        chunk = self._chunks[0]
        found = self._look_at(chunk)
        done = {(one.image, one.prompt) for some, _ in self._encodings for one in some}
        left = [one for one in found if (one.image, one.prompt) not in done]
        for start in range(0, len(left), masks_at_once):
            with self._busy.section():
                self._make_masks(chunk.pairs, left[start : start + masks_at_once])
        self._chunks.popleft()
        # Later chunks begin with this one's last image at the earliest.
        last_image = int(chunk.image_prompt[-1, 0])
        self._image_parts = {image: parts for image, parts in self._image_parts.items() if image >= last_image}

    def results(self) -> list[ImageDetections]:
        """Everything that was found, image by image, once all chunks are settled."""
        detections: list[list[Detection]] = [[] for _ in self._sizes_hw]
        for found, encoding in self._encodings:
            masks = iter(encoding.wait())
            for one in found:
                height, width = self._sizes_hw[one.image]
                boxes = one.boxes_xyxy * np.array([width, height, width, height], dtype=np.float32)
                for score, box in zip(one.scores.tolist(), boxes.tolist(), strict=True):
                    mask = next(masks)
                    detections[one.image].append(Detection(one.prompt, score, tuple(box), mask.area, mask.rle))
        return [
            ImageDetections(presence, saturated, sorted(some, key=lambda one: (one.prompt, -one.score)))
            for presence, saturated, some in zip(self._presence, self._saturated, detections, strict=True)
        ]

    def _look_at(self, chunk: _Chunk) -> list[_Found]:
        images, prompts = chunk.image_prompt.T
        scores, boxes = chunk.scores.wait(), chunk.boxes.wait()
        kept = scores > np.float32(self._parts.score_floor)
        self._presence[images, prompts] = chunk.presence.wait()
        self._saturated[images, prompts] = kept.mean(axis=-1) >= _SATURATED_SHARE
        found = []
        for row in np.flatnonzero(kept.any(axis=-1)).tolist():
            queries = np.flatnonzero(kept[row])
            found.append(
                _Found(row, int(images[row]), int(prompts[row]), queries, scores[row, queries], boxes[row, queries])
            )
        return found

    def _make_masks(self, pairs: GroundedPairs, found: Sequence[_Found]) -> None:
        rows = np.array([one.row for one in found], np.int32)
        prompts = np.array([one.prompt for one in found], np.int32)
        queries = np.zeros((len(found), max(len(one.queries) for one in found)), np.int64)
        for number, one in enumerate(found):
            queries[number, : len(one.queries)] = one.queries
        device_rows = to_device(rows, self._device)
        images = sorted({one.image for one in found})
        logits = self._parts.mask_head.logits(
            pairs.memory[device_rows],
            to_device(prompts, self._device),
            self._gather_image_parts(images),
            to_device(np.array([images.index(one.image) for one in found], np.int32), self._device),
            pairs.queries[device_rows[:, None], to_device(queries, self._device)],
        )
        numbered: Iterable[tuple[int, _Found]] = enumerate(found)
        for image, group in groupby(numbered, key=lambda item: item[1].image):
            members = list(group)
            kept = [logits[number, : len(one.queries)] for number, one in members]
            encoding = MaskEncoding(torch.cat(kept), self._sizes_hw[image], self._parts.mask_threshold)
            self._encodings.append(([one for _, one in members], encoding))

    def _gather_image_parts(self, images: Sequence[int]) -> list[torch.Tensor]:
        for image in images:
            if image not in self._image_parts:
                fine = self._parts.vision.fine_features(self._features.backbone[image : image + 1])
                self._image_parts[image] = self._parts.mask_head.image_parts(fine)
        per_stage = zip(*(self._image_parts[image] for image in images), strict=True)
        return [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in per_stage]
