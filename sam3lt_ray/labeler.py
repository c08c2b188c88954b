"""Labeling single images from Python, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sam3lt_ray.config.problems import describe_problems
from sam3lt_ray.config.schema import ComputeSettings, LabelingSettings, Section
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.images.given import GivenImage, rgb_of
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
        vocabulary: Names or full entries (also under "labels", as in a file), the path of a vocabulary file, or "demo".
        revision: Commit, tag or branch of a Hugging Face checkpoint.
        score_floor: Instances with a lower score are left out.
        mask_threshold: Mask probability from which a pixel belongs to an instance.
        merge_iou: Mask IoU from which instances of two prompts of one label are the same thing.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "fp32" or "bf16".

    Raises:
        UsageError: The checkpoint or the vocabulary cannot be used.
        ValueError: A number or a word is not among those that are possible; says which are.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        vocabulary: str | Path | Sequence[str | dict[str, Any]] | Mapping[str, Any],
        *,
        revision: str | None = None,
        score_floor: float = 0.2,
        mask_threshold: float = 0.5,
        merge_iou: float = 0.7,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        _check(LabelingSettings, score_floor=score_floor, mask_threshold=mask_threshold, merge_iou=merge_iou)
        _check(ComputeSettings, device=device, precision=precision)
        resolved = resolve_checkpoint(str(checkpoint), revision)
        tokenizer = PromptTokenizer(resolved)
        self._vocabulary = load_vocabulary(
            _plain(vocabulary), count_tokens=tokenizer.count_tokens, max_tokens=resolved.max_tokens
        )
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

    def __call__(self, image: GivenImage) -> ImageLabels:
        """Label one image.

        Args:
            image: A path, a file's bytes or an open binary file, a Pillow image, or uint8[H, W, 3] RGB. Orientation in
                EXIF is applied.

        Raises:
            ImageError: The image cannot be used; says why.
            OSError: The file is not there (FileNotFoundError) or cannot be read.
            TypeError: It is nothing of that kind.
            DeviceError: The GPU works no more in this process, and this labeler neither; start anew in a new process.
        """
        return self._images.label_decoded(rgb_of(image, max_pixels=_MAX_PIXELS))


def _check(section: type[Section], **values: object) -> None:
    """Hold arguments to what a config allows.

    Raises:
        ValueError: One line for each that is not possible.
    """
    try:
        section.model_validate(values)
    except ValidationError as error:
        problems = describe_problems(error, section, values, {}, "Labeler")
        raise ValueError("\n".join(problem.line for problem in problems)) from None


def _plain(vocabulary: str | Path | Sequence[Any] | Mapping[str, Any]) -> str | list[Any] | dict[str, Any]:
    if isinstance(vocabulary, str | Path):
        return str(vocabulary)
    return dict(vocabulary) if isinstance(vocabulary, Mapping) else list(vocabulary)
