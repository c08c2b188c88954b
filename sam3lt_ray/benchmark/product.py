"""This package, with exactly the classes that a run uses."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any, Final

import torch

from sam3lt_ray.benchmark.answers import ForcedAnswers
from sam3lt_ray.benchmark.contenders import ContenderSettings, Pass
from sam3lt_ray.benchmark.forcing import EngineSeam
from sam3lt_ray.benchmark.part_clock import Part, rest_of
from sam3lt_ray.benchmark.workloads import Workload, make_prompts
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.errors import ImageError
from sam3lt_ray.records import EncodedImage, EnginePart, ImageLabels, Unit, UnitRange
from sam3lt_ray.stages.label import ImageLabeler
from sam3lt_ray.vocabulary.loading import load_vocabulary

# The defaults of a run's config.
_MERGE_IOU: Final = 0.7
_MAX_PIXELS: Final = 200_000_000
_PART_NAMES: Final[dict[EnginePart, Part]] = {
    "vision": "vision",
    "prompts": "encoder and decoder",
    "masks": "mask head",
    "runs": "run lengths",
}


class Product:
    """ImageLabeler with its decoding threads, over a Segmenter with forced answers."""

    def __init__(self, settings: ContenderSettings) -> None:
        self._settings = settings
        self._device = torch.device(settings.device)
        self._segmenter: Segmenter | None = None
        self._num_prompts = 0
        self._load_s = 0.0

    def prepare(self, workload: Workload) -> float:
        """Loads checkpoint and vocabulary together, as a worker of a run does; anew for another vocabulary."""
        if self._segmenter is None or self._num_prompts != workload.num_prompts:
            self._release()
            self._load(workload)
        else:
            self._seam.force(ForcedAnswers(workload, self._segmenter.num_queries, self._device))
        return self._load_s

    def first_call(self, images: Sequence[bytes]) -> None:
        """One full batch of images, all prompts."""
        assert self._segmenter is not None
        count = self._segmenter.images_per_batch
        self._label((list(images) * count)[:count])

    def label(self, images: Sequence[bytes]) -> Pass:
        """All images as one unit."""
        started_s = time.perf_counter()
        labels = self._label(images)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        s_per_image = (time.perf_counter() - started_s) / len(images)
        return Pass(s_per_image, [self._by_prompt(one) for one in labels])

    def profile(self, images: Sequence[bytes]) -> dict[str, float]:
        """By part."""
        assert self._segmenter is not None
        before, started_s = self._segmenter.part_seconds, time.perf_counter()
        self._label(images)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        whole_ms = 1000 * (time.perf_counter() - started_s)
        after = self._segmenter.part_seconds
        parts: dict[str, float] = {name: 1000 * (after[part] - before[part]) for part, name in _PART_NAMES.items()}
        return {**parts, **rest_of(parts, whole_ms)}

    def facts(self) -> dict[str, Any]:
        """Batch sizes and precision as the engine chose them."""
        assert self._segmenter is not None
        return {
            "precision": self._segmenter.precision,
            "images_per_batch": self._segmenter.images_per_batch,
            "prompts_per_batch": self._segmenter.at_once.prompts,
            "extrapolated_from": None,
        }

    def _load(self, workload: Workload) -> None:
        started_s = time.perf_counter()
        vocabulary = load_vocabulary(list(make_prompts(workload.num_prompts)))
        self._position_of = {label.id: position for position, label in enumerate(vocabulary.labels)}
        self._segmenter = Segmenter.load(
            resolve_checkpoint(self._settings.checkpoint),
            [prompt.text for prompt in vocabulary.prompts],
            EngineSettings(device=self._settings.device, precision=self._settings.precision),
        )
        self._labeler = ImageLabeler(
            self._segmenter,
            vocabulary,
            merge_iou=_MERGE_IOU,
            max_pixels=_MAX_PIXELS,
            decode_threads=self._settings.decode_threads,
        )
        self._load_s = time.perf_counter() - started_s
        self._num_prompts = workload.num_prompts
        answers = ForcedAnswers(workload, self._segmenter.num_queries, self._device)
        self._seam = EngineSeam(self._segmenter, answers)

    def _release(self) -> None:
        """Lets the engine of the vocabulary before go."""
        if self._segmenter is not None:
            del self._segmenter, self._labeler, self._seam
            self._segmenter = None
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _label(self, images: Sequence[bytes]) -> list[ImageLabels]:
        encoded = tuple(EncodedImage(index, f"{index}.jpg", data) for index, data in enumerate(images))
        unit = Unit("benchmark", UnitRange(0, len(encoded), is_last=True), encoded)
        results, _ = self._labeler.label_unit(unit)
        for result in results:
            if isinstance(result, ImageError):
                raise result
        return [result for result in results if isinstance(result, ImageLabels)]

    def _by_prompt(self, labels: ImageLabels) -> dict[int, list[dict[str, Any]]]:
        found: dict[int, list[dict[str, Any]]] = {}
        for one in labels.instances:
            encoded = {"size": list(one.mask.size), "counts": one.mask.counts}
            found.setdefault(self._position_of[one.label_id], []).append(encoded)
        return found
