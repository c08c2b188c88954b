"""Labeling single images from Python, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.images.decode import as_displayed, decode_rgb
from sam3lt_ray.records import ImageLabels
from sam3lt_ray.stages.label import ImageLabeler
from sam3lt_ray.vocabulary.labels import Vocabulary
from sam3lt_ray.vocabulary.loading import load_vocabulary

_MAX_PIXELS = 200_000_000


class Labeler:
    """A model with a vocabulary; call it with an image.

    Example:
        >>> from sam3lt_ray import Labeler
        >>> labeler = Labeler("demo", ["red circle", "star"])
        >>> labels = labeler("scene.jpg")

    Args:
        checkpoint: A folder, a Hugging Face id, or "demo".
        vocabulary: Names or full entries, the path of a vocabulary file, or "demo".
        revision: Commit, tag or branch of a Hugging Face checkpoint.
        score_floor: Instances with a lower score are left out.
        mask_threshold: Mask probability from which a pixel belongs to an instance.
        merge_iou: Mask IoU from which instances of two prompts of one label are the same thing.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "fp32" or "bf16".

    Raises:
        UsageError: The checkpoint or the vocabulary cannot be used.
    """

    def __init__(
        self,
        checkpoint: str,
        vocabulary: str | Sequence[str | dict[str, Any]],
        *,
        revision: str | None = None,
        score_floor: float = 0.2,
        mask_threshold: float = 0.5,
        merge_iou: float = 0.7,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        resolved = resolve_checkpoint(checkpoint, revision)
        tokenizer = PromptTokenizer(resolved)
        spec = vocabulary if isinstance(vocabulary, str) else list(vocabulary)
        self._vocabulary = load_vocabulary(spec, count_tokens=tokenizer.count_tokens, max_tokens=resolved.max_tokens)
        settings = EngineSettings(
            score_floor=score_floor, mask_threshold=mask_threshold, device=device, precision=precision
        )
        prompts = [prompt.text for prompt in self._vocabulary.prompts]
        self._images = ImageLabeler(
            Segmenter.load(resolved, prompts, settings),
            self._vocabulary,
            merge_iou=merge_iou,
            max_pixels=_MAX_PIXELS,
            decode_threads=1,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels, with their ids."""
        return self._vocabulary

    def __call__(self, image: str | Path | bytes | Image.Image | npt.NDArray[np.uint8]) -> ImageLabels:
        """Label one image.

        Args:
            image: A path, a file's bytes, a Pillow image, or uint8[H, W, 3] RGB. Orientation in EXIF is applied.

        Raises:
            ImageError: The image cannot be used; says why.
            DeviceError: The GPU works no more in this process, and this labeler neither; start anew in a new process.
        """
        if isinstance(image, np.ndarray):
            return self._images.label_decoded(image)
        if isinstance(image, Image.Image):
            return self._images.label_decoded(as_displayed(image))
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        return self._images.label_decoded(decode_rgb(data, max_pixels=_MAX_PIXELS))
