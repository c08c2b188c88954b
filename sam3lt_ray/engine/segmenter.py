"""The engine's front door: a checkpoint and a vocabulary become a Segmenter, images become instances."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from sam3lt_ray.engine.busy_time import BusyTime
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.devices import Placement, choose_batches, choose_placement
from sam3lt_ray.engine.grounding import Grounding
from sam3lt_ray.engine.image_batch import ImageBatch, ModelParts
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.text_bank import encode_prompts
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.engine.vision import VisionEncoder
from sam3lt_ray.engine.warm_up import warm_up
from sam3lt_ray.errors import UsageError
from sam3lt_ray.records import EnginePart, ImageDetections

logger = logging.getLogger(__name__)

# Chunks that are being computed while the host looks at the one before. The last ones of a batch are looked at when the
# next batch has begun: a small last chunk alone would be over before the host has asked for anything else.
_CHUNKS_AHEAD: Final = 2
_MASKS_AT_ONCE_CPU: Final = 2
_MASKS_AT_ONCE_CUDA: Final = 8


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to compute.

    Attributes:
        score_floor: Instances with a score up to it are dropped.
        mask_threshold: Probability above which a pixel belongs to a mask.
        device: "auto", "cpu" or "cuda"; "auto" takes the first CUDA GPU if there is one.
        precision: "auto", "fp32" or "bf16"; "auto" is bf16 on a GPU that has it, otherwise fp32.
        images_per_batch: Images encoded together.
        prompts_per_batch: Pairs of a prompt with an image that are grounded together.
        num_threads: CPU threads for torch, in the whole process; None: leave it as it is.
    """

    score_floor: float = 0.2
    mask_threshold: float = 0.5
    device: str = "auto"
    precision: str = "auto"
    images_per_batch: int | Literal["auto"] = "auto"
    prompts_per_batch: int | Literal["auto"] = "auto"
    num_threads: int | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """Images that the device is at work on; for :meth:`Segmenter.collect`, once."""

    batches: tuple[ImageBatch, ...]


class Segmenter:
    """A model with its vocabulary, ready for images. Made by :meth:`load`.

    Attributes:
        image_size: Side of the square images it takes, in pixels.
        num_prompts: Size of the vocabulary.
        num_queries: The most instances it can find per image and prompt.
        images_per_batch: As settled on.
        prompts_per_batch: As settled on; halved where the device's memory turns out to be too small for it.
        memory_halvings: How often that has happened.
    """

    def __init__(
        self,
        parts: ModelParts,
        *,
        placement: Placement,
        image_size: int,
        images_per_batch: int,
        prompts_per_batch: int,
    ) -> None:
        self._parts = parts
        self._placement = placement
        self.image_size = image_size
        self.num_prompts = parts.num_prompts
        self.num_queries = parts.grounding.num_queries
        self.images_per_batch, self.prompts_per_batch = images_per_batch, prompts_per_batch
        self.memory_halvings = 0
        self._masks_at_once = _MASKS_AT_ONCE_CUDA if placement.device.type == "cuda" else _MASKS_AT_ONCE_CPU
        self._last_batch: ImageBatch | None = None
        self._busy = BusyTime(placement.device)
        self._lock = threading.Lock()

    @classmethod
    def load(cls, checkpoint: Checkpoint, prompts: Sequence[str], settings: EngineSettings | None = None) -> Segmenter:
        """Loads the model, encodes the vocabulary, and lets the text encoder go.

        Args:
            checkpoint: From :func:`~sam3lt_ray.engine.checkpoint.resolve_checkpoint`.
            prompts: Phrases to look for; what is found refers to them by index.
            settings: None: all defaults.

        Raises:
            CheckpointError: The weights do not belong to the architecture.
            ConfigError: A prompt is longer than the model takes.
            UsageError: No prompts, or a device that is not there.
        """
        settings = settings or EngineSettings()
        if not prompts:
            raise UsageError("the vocabulary is empty: give at least one prompt.")
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        placement = choose_placement(settings.device, settings.precision)
        tokenizer = PromptTokenizer(checkpoint)
        with torch.inference_mode():
            model = load_model(checkpoint)
            text = encode_prompts(model, tokenizer, prompts, placement.device)
            vision = VisionEncoder(model.vision_encoder, checkpoint, placement)
            grounding = Grounding(model, text, vision.positions, vision.grid_hw, placement)
            mask_head = MaskHead(model.mask_decoder, text, vision.grid_hw, placement)
        images_per_batch, prompts_per_batch = choose_batches(
            placement,
            num_tokens=vision.grid_hw[0] * vision.grid_hw[1],
            images_per_batch=settings.images_per_batch,
            prompts_per_batch=settings.prompts_per_batch,
        )
        parts = ModelParts(vision, grounding, mask_head, len(prompts), settings.score_floor, settings.mask_threshold)
        if placement.device.type == "cuda":
            with torch.inference_mode():
                warm_up(parts, checkpoint.image_size, placement.device)
        return cls(
            parts,
            placement=placement,
            image_size=checkpoint.image_size,
            images_per_batch=images_per_batch,
            prompts_per_batch=prompts_per_batch,
        )

    @property
    def device(self) -> str:
        """For example "cpu" or "cuda:0"."""
        return str(self._placement.device)

    @property
    def precision(self) -> str:
        """The number format by name: "fp32" or "bf16"."""
        return self._placement.precision

    @property
    def part_seconds(self) -> Mapping[EnginePart, float]:
        """Seconds the device has worked so far, on what has been done, by part."""
        return self._busy.seconds

    def segment(
        self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """Finds every instance of every prompt: :meth:`submit` and :meth:`collect` in one.

        Args:
            pixels: RGB images squashed to the model's square, each uint8 [S, S, 3].
            sizes_hw: (height, width) of each image before that, in pixels: masks and boxes refer to it.

        Returns:
            One entry per image, in order. The result of an image does not depend on its neighbours nor on batch sizes,
            beyond rounding.

        Raises:
            ValueError: Wrong shape or dtype, or a different number of images and sizes.
        """
        return self.collect(self.submit(pixels, sizes_hw))

    def submit(self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]) -> Submission:
        """Sets the device to work on images. Submit the next ones before collecting, and it is never idle.

        One call at a time; further threads wait. Arguments and errors are those of :meth:`segment`.
        """
        self._check(pixels, sizes_hw)
        with self._lock, torch.inference_mode():
            some = [
                slice(start, start + self.images_per_batch) for start in range(0, len(pixels), self.images_per_batch)
            ]
            try:
                return Submission(tuple(self._start_batch(pixels[one], sizes_hw[one]) for one in some))
            except BaseException:
                self._last_batch = None  # the next images must not suffer from what is left of these
                raise

    def collect(self, submission: Submission) -> list[ImageDetections]:
        """Waits for what :meth:`submit` has begun. One entry per image, in order."""
        for batch in submission.batches:
            batch.wait()  # without the lock: others may submit meanwhile
        with self._lock, torch.inference_mode():
            for batch in submission.batches:
                self._finish(batch)
        return [one for batch in submission.batches for one in batch.results()]

    def _start_batch(self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]) -> ImageBatch:
        batch = ImageBatch(self._parts, self._busy, pixels, sizes_hw, self._placement.device)
        before, self._last_batch = self._last_batch, batch
        first = 0
        while first < batch.num_pairs:
            last = min(first + self.prompts_per_batch, batch.num_pairs)
            if self._fits(partial(batch.ground, first, last), self._halve_prompts):
                first = last
            if before is not None:  # its last masks are asked for now that the device has something to do meanwhile
                self._finish(before)
                before = None
            self._settle(batch, but=_CHUNKS_AHEAD)
        return batch

    def _finish(self, batch: ImageBatch) -> None:
        self._settle(batch)
        batch.release()
        if self._last_batch is batch:
            self._last_batch = None

    def _settle(self, batch: ImageBatch, but: int = 0) -> None:
        while batch.num_unsettled > but:
            self._fits(lambda: batch.settle(self._masks_at_once), self._halve_masks)

    def _fits(self, work: Callable[[], None], halve: Callable[[], bool]) -> bool:
        """Whether work was done; when the device's memory is too small, less is to be asked of it, if there is less.

        Raises:
            torch.OutOfMemoryError: Not even the least fits.
        """
        try:
            work()
        except torch.OutOfMemoryError:
            if not halve():
                raise
            self.memory_halvings += 1
            torch.cuda.empty_cache()
            return False
        return True

    def _halve_prompts(self) -> bool:
        if self.prompts_per_batch == 1:
            return False
        logger.warning(
            "The memory of %s is too small for %d prompts at once; going on with %d. Set compute.prompts_per_batch to "
            "that to begin with it.",
            self.device,
            self.prompts_per_batch,
            self.prompts_per_batch // 2,
        )
        self.prompts_per_batch //= 2
        return True

    def _halve_masks(self) -> bool:
        if self._masks_at_once == 1:
            return False
        self._masks_at_once //= 2
        return True

    def _check(self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]) -> None:
        if len(pixels) != len(sizes_hw):
            raise ValueError(f"{len(pixels)} images but {len(sizes_hw)} sizes")
        expected = (self.image_size, self.image_size, 3)
        for index, image in enumerate(pixels):
            if image.shape != expected or image.dtype != np.uint8:
                raise ValueError(f"image {index} is {image.dtype}{list(image.shape)}; expected uint8{list(expected)}")
        for index, (height, width) in enumerate(sizes_hw):
            if height < 1 or width < 1:
                raise ValueError(f"size of image {index} is {height} x {width}")
