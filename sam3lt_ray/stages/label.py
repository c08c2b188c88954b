"""Stage 2, label: from a unit's compressed images to its label rows.

Images are decoded ahead of the device (``prepare_images.py``), and batches are submitted ahead of those whose results
are read, so that the device waits neither for a JPEG nor for run lengths. Whatever goes wrong with one image ends as
that image's error row; nothing that an image contains can cost its neighbours their labels. Only a device that works no
more in this process is nobody's error row: whoever runs this must go on in a new process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, get_args

import numpy as np
from PIL import Image

from sam3lt_ray.errors import DeviceError, ImageError
from sam3lt_ray.masks.suppression import merge_prompt_instances
from sam3lt_ray.records import EncodedImage, EnginePart, ImageDetections, ImageLabels, Instance, Part, Unit
from sam3lt_ray.stages.prepare_images import ImagePreparer, Pixels, PreparedImage
from sam3lt_ray.vocabulary.labels import Vocabulary

# Two are enough: while the host looks at one batch's masks the device has the next one, and one more to begin with.
_BATCHES_AHEAD: Final = 2


class Engine(Protocol):
    """What labels images; the real one is :class:`sam3lt_ray.engine.segmenter.Segmenter`."""

    @property
    def image_size(self) -> int:
        """Side in pixels of the square image the model takes."""
        ...

    @property
    def images_per_batch(self) -> int:
        """Images that are best given together."""
        ...

    @property
    def part_seconds(self) -> Mapping[EnginePart, float]:
        """Seconds the device has worked since the engine was made, by part."""
        ...

    @property
    def memory_halvings(self) -> int:
        """How often less was asked of the device at once because its memory was too small."""
        ...

    def submit(self, pixels: Sequence[Pixels], sizes_hw: Sequence[tuple[int, int]]) -> Any:
        """Set the device to work on prepared images.

        Args:
            pixels: uint8[image_size, image_size, 3] each, RGB.
            sizes_hw: (height, width) of the original images; masks and boxes come at these sizes.

        Returns:
            What :meth:`collect` wants.

        Raises:
            DeviceError: The device works no more in this process.
        """
        ...

    def collect(self, submission: Any) -> list[ImageDetections]:
        """Wait for what was submitted; one entry per image, in order.

        Raises:
            DeviceError: The device works no more in this process.
        """
        ...


@dataclass(frozen=True, slots=True)
class LabelTimings:
    """What a unit took.

    Attributes:
        part_seconds: By part: of the device, of all decoding threads together, of reading and writing. Where several
            units are labeled at a time, what was done since one of them last said so; the sum is right.
        wait_s: Seconds of waiting for images to be decoded.
        wall_s: Seconds all in all.
        memory_halvings: See :attr:`Engine.memory_halvings`; shared between units like the device's seconds.
    """

    part_seconds: Mapping[Part, float]
    wait_s: float
    wall_s: float
    memory_halvings: int = 0

    @property
    def busy_s(self) -> float:
        """Seconds of the device."""
        return sum(self.part_seconds.get(part, 0.0) for part in get_args(EnginePart))


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A batch that the engine has, or the exception with which it refused it."""

    batch: Sequence[PreparedImage | ImageError]
    submission: Any
    refusal: Exception | None


@dataclass(frozen=True, slots=True)
class _Report:
    """What has been done since the labeler was made."""

    seconds: Mapping[Part, float]
    memory_halvings: int


class ImageLabeler:
    """Turns images into labels: decode, engine, and prompts joined into labels.

    Args:
        engine: Has the vocabulary's prompts in the order of ``vocabulary.prompts``.
        vocabulary: The labels.
        merge_iou: Mask IoU from which instances of two prompts of one label are the same thing.
        max_pixels: Larger images become errors.
        decode_threads: Threads that decode and resize.
    """

    def __init__(
        self, engine: Engine, vocabulary: Vocabulary, *, merge_iou: float, max_pixels: int, decode_threads: int
    ) -> None:
        self._engine = engine
        self._labels = vocabulary.labels
        self._prompts = vocabulary.prompts
        self._merge_iou = merge_iou
        self._preparer = ImagePreparer(
            image_size=engine.image_size,
            max_pixels=max_pixels,
            threads=decode_threads,
            lookahead=decode_threads + 2 * engine.images_per_batch,
        )
        self._report_lock = threading.Lock()
        self._reported = self._so_far()

    def label_unit(
        self, unit: Unit, after_batch: Callable[[], None] = lambda: None
    ) -> tuple[list[ImageLabels | ImageError], LabelTimings]:
        """Label all images of a unit; one result per image, in order. Units may be labeled in several threads at once.

        Args:
            unit: The unit.
            after_batch: Called after each batch, to feed a watchdog.

        Raises:
            DeviceError: The device works no more in this process; which image it was is unknown.
        """
        start, wait_s = time.perf_counter(), 0.0
        results: list[ImageLabels | ImageError] = []
        prepared = self._preparer.ahead(unit.images)
        submitted: deque[_Submitted] = deque()
        while True:
            waited = time.perf_counter()
            batch = [item for _, item in zip(range(self._engine.images_per_batch), prepared, strict=False)]
            wait_s += time.perf_counter() - waited
            if batch:
                submitted.append(self._submit(batch))
            if len(submitted) > (_BATCHES_AHEAD if batch else 0):
                results += self._collect(submitted.popleft())
                after_batch()
            elif not batch:
                break
        return results, self.timings(start, wait_s)

    def label_image(self, image: EncodedImage) -> ImageLabels | ImageError:
        """Label one image alone, in the calling thread."""
        return self.label_prepared([self._preparer.prepare(image)])[0]

    def label_decoded(self, image: Image.Image | Pixels) -> ImageLabels:
        """Label one decoded image.

        Args:
            image: Of mode RGB, or uint8[H, W, 3], RGB.

        Raises:
            ImageError: The engine could not label it.
            DeviceError: The device works no more in this process.
        """
        result = self.label_prepared([self._preparer.prepare_decoded(image)])[0]
        if isinstance(result, ImageError):
            raise result
        return result

    def label_prepared(self, batch: Sequence[PreparedImage | ImageError]) -> list[ImageLabels | ImageError]:
        """Label what could be prepared of a batch and pass the errors through, in order."""
        return self._collect(self._submit(batch))

    def _submit(self, batch: Sequence[PreparedImage | ImageError]) -> _Submitted:
        good = [item for item in batch if isinstance(item, PreparedImage)]
        if not good:
            return _Submitted(batch, None, None)
        try:
            submission = self._engine.submit([item.pixels for item in good], [item.size_hw for item in good])
        except DeviceError:
            raise
        except Exception as error:  # whatever the engine meets: see _collect
            return _Submitted(batch, None, _without_frames(error))
        return _Submitted(batch, submission, None)

    def _collect(self, submitted: _Submitted) -> list[ImageLabels | ImageError]:
        good = [item for item in submitted.batch if isinstance(item, PreparedImage)]
        failure, found = submitted.refusal, []
        if good and failure is None:
            try:
                found = self._engine.collect(submitted.submission)
            except DeviceError:
                raise
            except Exception as error:  # whatever the engine meets: find out whose fault it is, one by one
                failure = _without_frames(error)
        results: Iterator[ImageLabels | ImageError]
        if failure is None:
            results = (self._join_prompts(one, item.size_hw) for one, item in zip(found, good, strict=True))
        elif len(good) > 1:
            results = iter([self.label_prepared([item])[0] for item in good])
        else:
            results = iter([_engine_failure(failure, good[0].size_hw)])
        return [next(results) if isinstance(item, PreparedImage) else item for item in submitted.batch]

    def timings(self, start: float, wait_s: float = 0.0) -> LabelTimings:
        """What was done since the last timings.

        Args:
            start: When the unit was begun, by ``time.perf_counter``.
            wait_s: Seconds of waiting for images.
        """
        with self._report_lock:
            now, before = self._so_far(), self._reported
            self._reported = now
        since = {part: seconds - before.seconds[part] for part, seconds in now.seconds.items()}
        return LabelTimings(since, wait_s, time.perf_counter() - start, now.memory_halvings - before.memory_halvings)

    def _so_far(self) -> _Report:
        seconds: dict[Part, float] = {"decode": self._preparer.decode_s}
        seconds.update(self._engine.part_seconds.items())
        return _Report(seconds, self._engine.memory_halvings)

    def _join_prompts(self, found: ImageDetections, size_hw: tuple[int, int]) -> ImageLabels:
        presence = np.zeros(len(self._labels), np.float32)
        saturated: set[int] = set()
        by_label: list[list[Instance]] = [[] for _ in self._labels]
        for prompt, prompt_presence, is_saturated in zip(self._prompts, found.presence, found.saturated, strict=True):
            presence[prompt.label_position] = max(presence[prompt.label_position], prompt_presence)
            if is_saturated:
                saturated.add(self._labels[prompt.label_position].id)
        for detection in found.detections:
            prompt = self._prompts[detection.prompt]
            instance = Instance(
                self._labels[prompt.label_position].id,
                prompt.prompt_index,
                detection.score,
                detection.box_xyxy,
                detection.area,
                detection.mask,
            )
            by_label[prompt.label_position].append(instance)
        instances = [instance for group in by_label for instance in self._merge(group)]
        height, width = size_hw
        return ImageLabels(width, height, presence, tuple(sorted(saturated)), tuple(instances))

    def _merge(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        return merge_prompt_instances(instances, self._merge_iou) if instances else ()


def _without_frames(error: Exception) -> Exception:
    """What the frames hold that it came through, a batch on the device, must be free before anything is tried again."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _engine_failure(error: Exception, size_hw: tuple[int, int]) -> ImageError:
    size = f"{size_hw[1]} x {size_hw[0]}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ImageError("out_of_memory", f"Labeling the {size} image did not fit into memory, even alone: {error}")
    return ImageError("failed", f"Labeling the {size} image failed with {type(error).__name__}: {error}")
