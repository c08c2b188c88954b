"""The engine's front door: a checkpoint and a vocabulary become a Segmenter, images become instances."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from sam3lt_ray.engine.at_once import AtOnce
from sam3lt_ray.engine.busy_time import BusyTime
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.devices import Placement, choose_batches, choose_placement
from sam3lt_ray.engine.failures import failing_clearly, let_go
from sam3lt_ray.engine.grounding import Grounding
from sam3lt_ray.engine.image_batch import ImageBatch, ModelParts, check_images
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.ops.dispatch import uses_kernels
from sam3lt_ray.engine.ops.word_attention import most_words
from sam3lt_ray.engine.text_bank import encode_prompts, warn_of_long_prompts
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.engine.vision import VisionEncoder
from sam3lt_ray.engine.warm_up import warm_up
from sam3lt_ray.errors import UsageError
from sam3lt_ray.records import EnginePart, ImageDetections

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
        at_once: Batch sizes as settled on, halved where the device's memory turns out to be too small for them.
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
        masks = _MASKS_AT_ONCE_CUDA if placement.device.type == "cuda" else _MASKS_AT_ONCE_CPU
        self.at_once = AtOnce(self.device, images=images_per_batch, prompts=prompts_per_batch, masks=masks)
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
        if uses_kernels(placement.device, placement.dtype):
            warn_of_long_prompts(prompts, text, most_words(grounding.num_heads))
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
    def images_per_batch(self) -> int:
        """Images that are best submitted together."""
        return self.at_once.images

    @property
    def memory_halvings(self) -> int:
        """How often the device's memory was too small for a batch."""
        return self.at_once.halvings

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
            DeviceError: The device failed, and with it everything that this process could still ask of it.
            torch.OutOfMemoryError: An image does not fit into the device's memory, even alone.
        """
        return self.collect(self.submit(pixels, sizes_hw))

    def submit(self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]) -> Submission:
        """Sets the device to work on images. Submit the next ones before collecting, and it is never idle.

        One call at a time; further threads wait. Arguments and errors are those of :meth:`segment`.
        """
        check_images(pixels, sizes_hw, self.image_size)
        begun: list[ImageBatch] = []
        first = 0
        with failing_clearly(self.device), self._lock, torch.inference_mode():
            try:
                while first < len(pixels):
                    some = slice(first, first + self.at_once.images)
                    batch = self._encode(pixels[some], sizes_hw[some])
                    if batch is None:  # fewer at once, then
                        continue
                    begun.append(batch)
                    self._ground(batch)
                    first = some.stop
            except BaseException:
                self._drop(begun)
                raise
        return Submission(tuple(begun))

    def collect(self, submission: Submission) -> list[ImageDetections]:
        """Waits for what :meth:`submit` has begun. One entry per image, in order.

        Raises what went wrong with these images, also where it came up when the next ones were submitted.
        """
        batches = submission.batches
        with failing_clearly(self.device):
            try:
                for batch in batches:
                    batch.wait()  # without the lock: others may submit meanwhile
                with self._lock, torch.inference_mode():
                    for batch in batches:
                        self._finish(batch)
                for batch in batches:
                    if batch.lacks_room():  # waits for the device, without the lock
                        with self._lock, torch.inference_mode():
                            while not self._fits(batch.make_room, self.at_once.halve_masks):
                                pass
                return [one for batch in batches for one in batch.results()]
            except BaseException:
                with self._lock:
                    self._drop(batches)
                raise

    def _encode(
        self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
    ) -> ImageBatch | None:
        """None: that many at once do not fit, and fewer are asked for from now on."""
        made: list[ImageBatch] = []

        def make() -> None:
            made.append(ImageBatch(self._parts, self._busy, pixels, sizes_hw, self._placement.device))

        return made[0] if self._fits(make, partial(self.at_once.halve_images, len(pixels))) else None

    def _ground(self, batch: ImageBatch) -> None:
        first = 0
        while first < batch.num_pairs:
            last = min(first + self.at_once.prompts, batch.num_pairs)
            if self._fits(partial(batch.ground, first, last), partial(self.at_once.halve_prompts, last - first)):
                first = last
            self._finish_last()  # its last masks are asked for now that the device has something to do meanwhile
            self._settle(batch, but=_CHUNKS_AHEAD)
        self._last_batch = batch

    def _finish_last(self) -> bool:
        """Finishes the batch before, if there is one; what goes wrong there is told to whoever collects it."""
        batch, self._last_batch = self._last_batch, None
        if batch is None:
            return False
        try:
            self._finish(batch)
        except Exception as error:
            let_go(error)
            batch.fail(error)
        return True

    def _finish(self, batch: ImageBatch) -> None:
        if self._last_batch is batch:
            self._last_batch = None
        if batch.failure is not None:
            raise batch.failure
        self._settle(batch)
        batch.release()

    def _drop(self, batches: Sequence[ImageBatch]) -> None:
        """The next images must not suffer from what is left of these."""
        for batch in batches:
            batch.drop()
            if self._last_batch is batch:
                self._last_batch = None

    def _settle(self, batch: ImageBatch, but: int = 0) -> None:
        while batch.num_unsettled > but:
            self._fits(lambda: batch.settle(self.at_once.masks), self.at_once.halve_masks)

    def _fits(self, work: Callable[[], None], halve: Callable[[], bool]) -> bool:
        """See :meth:`AtOnce.fits`; besides less there is the batch before, which can be finished."""
        return self.at_once.fits(work, halve, self._finish_last)
