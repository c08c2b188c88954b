"""One batch of images on its way through the model: collects, image by image, what pair after pair finds.

The device is always asked for more before the host looks at what it has found: a chunk of pairs is settled (which
masks are wanted?) while the next one is being computed, and run lengths are fetched when somebody wants them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
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

    Attributes:
        failure: What went wrong with these images while others were submitted; None: nothing.
    """

    failure: Exception | None = None

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
        with busy.section("vision"):
            features = parts.vision.encode(to_device(np.stack(pixels), device))
        with busy.section("prompts"):
            self._encoded: _Encoded | None = _Encoded(features, parts.grounding.start(features.tokens))
        self._image_parts = _ImageParts({}, [])
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
        with self._busy.section("prompts"):
            assert self._encoded is not None  # nothing is grounded after release()
            pairs = self._parts.grounding.ground(self._encoded.started, make_pairs(image_prompt, self._device))
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
        if left:
            with self._busy.section("masks"):
                parts = self._make_image_parts(sorted({one.image for one in left}))
        for start in range(0, len(left), masks_at_once):
            self._make_masks(chunk.pairs, left[start : start + masks_at_once], parts)
        self._chunks.popleft()

    def release(self) -> None:
        """Lets the encoded images go, once all pairs are grounded and settled; what was found stays."""
        self._encoded = None
        self._image_parts = _ImageParts({}, [])

    def drop(self) -> None:
        """Lets everything go: nobody will ask for results any more."""
        self.release()
        self._chunks.clear()
        self._encodings.clear()

    def fail(self, error: Exception) -> None:
        """Keeps what went wrong for whoever collects these images, and nothing else."""
        self.failure = error
        self.drop()

    def lacks_room(self) -> bool:
        """Waits for the masks; whether some have more run lengths than there was room for: see :meth:`make_room`."""
        return any(encoding.lacks_room() for _, encoding in self._encodings)

    def make_room(self) -> None:
        """Asks for those masks again; may be called again when that does not fit into the memory."""
        for _, encoding in self._encodings:
            with self._busy.section("runs"):
                encoding.make_room()

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

    def _make_masks(self, pairs: GroundedPairs, found: Sequence[_Found], parts: _ImageParts) -> None:
        with self._busy.section("masks"):
            logits = self._mask_logits(pairs, found, parts)
        # Masks of one size go to run lengths together, whichever images they belong to.
        by_size: dict[tuple[int, int], list[int]] = {}
        for number, one in enumerate(found):
            by_size.setdefault(self._sizes_hw[one.image], []).append(number)
        for size_hw, members in by_size.items():
            with self._busy.section("runs"):
                kept = torch.cat([logits[number, : len(found[number].queries)] for number in members])
                encoding = MaskEncoding(kept, size_hw, self._parts.mask_threshold)
            self._encodings.append(([found[number] for number in members], encoding))

    def _mask_logits(self, pairs: GroundedPairs, found: Sequence[_Found], parts: _ImageParts) -> torch.Tensor:
        """Of the kept queries of each pair, filled up to the most that one has: [pairs, queries, height, width]."""
        queries = np.zeros((len(found), max(len(one.queries) for one in found)), np.int32)
        for number, one in enumerate(found):
            queries[number, : len(one.queries)] = one.queries
        numbers = np.array([(one.row, one.prompt, parts.rows[one.image]) for one in found], np.int32)
        rows, prompts, images = to_device(numbers.T, self._device)
        return self._parts.mask_head.logits(
            pairs.memory[rows],
            prompts,
            parts.by_stage,
            images,
            pairs.queries[rows[:, None], to_device(queries, self._device)],
        )

    def _make_image_parts(self, images: Sequence[int]) -> _ImageParts:
        """The mask head's maps of some images; of one that an earlier chunk has seen they are there already."""
        known = [image for image in images if image in self._image_parts.rows]
        new = [image for image in images if image not in self._image_parts.rows]
        parts = [self._image_parts.of(known)] if known else []
        if new:
            assert self._encoded is not None  # nothing is settled after release()
            backbone = self._encoded.features.backbone
            some = backbone if len(new) == len(backbone) else backbone[to_device(np.array(new), self._device)]
            made = self._parts.mask_head.image_parts(self._parts.vision.fine_features(some))
            parts.append(_ImageParts({image: row for row, image in enumerate(new)}, made))
        self._image_parts = parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
        return self._image_parts


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The images on the device: encoded, and with what is the same for every prompt."""

    features: ImageFeatures
    started: torch.Tensor


@dataclass(frozen=True, slots=True)
class _ImageParts:
    """What the mask head needs of some images.

    Attributes:
        rows: Where an image is.
        by_stage: One tensor per upsampling stage, [images, C, height, width].
    """

    rows: dict[int, int]
    by_stage: list[torch.Tensor]

    def of(self, images: Sequence[int]) -> _ImageParts:
        """Those of some of the images."""
        if list(self.rows) == list(images):
            return self
        some = [torch.stack([part[self.rows[image]] for image in images]) for part in self.by_stage]
        return _ImageParts({image: row for row, image in enumerate(images)}, some)

    def joined(self, other: _ImageParts) -> _ImageParts:
        """These and others behind them."""
        behind = {image: len(self.rows) + row for image, row in other.rows.items()}
        both = [torch.cat(parts) for parts in zip(self.by_stage, other.by_stage, strict=True)]
        return _ImageParts({**self.rows, **behind}, both)


def check_images(pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]], image_size: int) -> None:
    """Raises ValueError for images that are not uint8 [image_size, image_size, 3], or have no size of their own."""
    if len(pixels) != len(sizes_hw):
        raise ValueError(f"{len(pixels)} images but {len(sizes_hw)} sizes")
    expected = (image_size, image_size, 3)
    for index, image in enumerate(pixels):
        if image.shape != expected or image.dtype != np.uint8:
            raise ValueError(f"image {index} is {image.dtype}{list(image.shape)}; expected uint8{list(expected)}")
    for index, (height, width) in enumerate(sizes_hw):
        if height < 1 or width < 1:
            raise ValueError(f"size of image {index} is {height} x {width}")
