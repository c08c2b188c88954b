"""The engine's front door: a checkpoint and a vocabulary become a Segmenter, images become instances."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.devices import Placement, choose_batches, choose_placement
from sam3lt_ray.engine.grounding import Grounding
from sam3lt_ray.engine.image_batch import ImageBatch
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.text_bank import encode_prompts
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.engine.vision import VisionEncoder
from sam3lt_ray.errors import UsageError
from sam3lt_ray.records import ImageDetections


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to compute.

    Attributes:
        score_floor: Instances with a score up to it are dropped.
        mask_threshold: Probability above which a pixel belongs to a mask.
        device: "auto", "cpu" or "cuda"; "auto" takes the first CUDA GPU if there is one.
        precision: "auto", "fp32" or "bf16"; "auto" is bf16 on a GPU that has it, otherwise fp32.
        images_per_batch: Images encoded together.
        prompts_per_batch: Prompts grounded together; memory grows with images_per_batch x prompts_per_batch.
        num_threads: CPU threads for torch, in the whole process; None: leave it as it is.
    """

    score_floor: float = 0.2
    mask_threshold: float = 0.5
    device: str = "auto"
    precision: str = "auto"
    images_per_batch: int | Literal["auto"] = "auto"
    prompts_per_batch: int | Literal["auto"] = "auto"
    num_threads: int | None = None


class Segmenter:
    """A model with its vocabulary, ready for images. Made by :meth:`load`.

    Attributes:
        image_size: Side of the square images it takes, in pixels.
        num_prompts: Size of the vocabulary.
        num_queries: The most instances it can find per image and prompt.
        images_per_batch: As settled on.
        prompts_per_batch: As settled on.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        grounding: Grounding,
        mask_head: MaskHead,
        *,
        placement: Placement,
        settings: EngineSettings,
        image_size: int,
        num_prompts: int,
        images_per_batch: int,
        prompts_per_batch: int,
    ) -> None:
        self._vision, self._grounding, self._mask_head = vision, grounding, mask_head
        self._placement, self._settings = placement, settings
        self.image_size = image_size
        self.num_prompts = num_prompts
        self.num_queries = grounding.num_queries
        self.images_per_batch, self.prompts_per_batch = images_per_batch, prompts_per_batch
        self._busy_s = 0.0
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
            num_prompts=len(prompts),
            images_per_batch=settings.images_per_batch,
            prompts_per_batch=settings.prompts_per_batch,
        )
        return cls(
            vision,
            grounding,
            mask_head,
            placement=placement,
            settings=settings,
            image_size=checkpoint.image_size,
            num_prompts=len(prompts),
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
    def busy_s(self) -> float:
        """Seconds spent in :meth:`segment` so far; it returns only when the device has finished."""
        return self._busy_s

    def segment(
        self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        """Finds every instance of every prompt. One call at a time; further threads wait.

        Args:
            pixels: RGB images squashed to the model's square, each uint8 [S, S, 3].
            sizes_hw: (height, width) of each image before that, in pixels: masks and boxes refer to it.

        Returns:
            One entry per image, in order. The result of an image does not depend on its neighbours nor on batch sizes,
            beyond rounding.

        Raises:
            ValueError: Wrong shape or dtype, or a different number of images and sizes.
        """
        self._check(pixels, sizes_hw)
        results: list[ImageDetections] = []
        with self._lock, torch.inference_mode():
            begin_s = time.perf_counter()
            for start in range(0, len(pixels), self.images_per_batch):
                some = slice(start, start + self.images_per_batch)
                results += self._segment_batch(pixels[some], sizes_hw[some])
            self._busy_s += time.perf_counter() - begin_s
        return results

    def _segment_batch(
        self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        batch = ImageBatch(
            self._vision,
            self._grounding,
            self._mask_head,
            torch.from_numpy(np.stack(pixels)).to(self._placement.device),
            sizes_hw,
            num_prompts=self.num_prompts,
            score_floor=self._settings.score_floor,
            mask_threshold=self._settings.mask_threshold,
        )
        for first in range(0, self.num_prompts, self.prompts_per_batch):
            batch.add_prompts(slice(first, min(first + self.prompts_per_batch, self.num_prompts)))
        return batch.results()

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
