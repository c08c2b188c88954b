"""Stage 2, label: from a unit's compressed images to its label rows.

Images are decoded in threads, ahead of the device, so that the device never waits for a JPEG. Whatever goes wrong with
one image ends as that image's error row; nothing that an image contains can cost its neighbours their labels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sam3lt_ray.errors import ImageError
from sam3lt_ray.images.decode import decode_image
from sam3lt_ray.images.resize import resize_for_model
from sam3lt_ray.masks.suppression import merge_prompt_instances
from sam3lt_ray.records import EncodedImage, ImageDetections, ImageLabels, Instance, Unit
from sam3lt_ray.vocabulary.labels import Vocabulary

Pixels = npt.NDArray[np.uint8]


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
    def busy_s(self) -> float:
        """Seconds the device has worked since the engine was made."""
        ...

    def segment(self, pixels: Sequence[Pixels], sizes_hw: Sequence[tuple[int, int]]) -> list[ImageDetections]:
        """Label prepared images.

        Args:
            pixels: uint8[image_size, image_size, 3] each, RGB.
            sizes_hw: (height, width) of the original images; masks and boxes come at these sizes.
        """
        ...


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A decoded image in the model's form, and the size it came from."""

    pixels: Pixels
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class LabelTimings:
    """Seconds spent on a unit: device, waiting for decoding, and all in all."""

    busy_s: float
    wait_s: float
    wall_s: float


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
        self._max_pixels = max_pixels
        self._decoders = ThreadPoolExecutor(max_workers=decode_threads, thread_name_prefix="sam3lt-decode")
        self._lookahead = decode_threads + 2 * engine.images_per_batch

    def label_unit(
        self, unit: Unit, after_batch: Callable[[], None] = lambda: None
    ) -> tuple[list[ImageLabels | ImageError], LabelTimings]:
        """Label all images of a unit; one result per image, in order.

        Args:
            unit: The unit.
            after_batch: Called after each batch, to feed a watchdog.
        """
        start, busy_before, wait_s = time.perf_counter(), self._engine.busy_s, 0.0
        results: list[ImageLabels | ImageError] = []
        prepared = self._prepare_ahead(unit.images)
        while True:
            waited = time.perf_counter()
            batch = [item for _, item in zip(range(self._engine.images_per_batch), prepared, strict=False)]
            wait_s += time.perf_counter() - waited
            if not batch:
                break
            results.extend(self.label_prepared(batch))
            after_batch()
        timings = LabelTimings(self._engine.busy_s - busy_before, wait_s, time.perf_counter() - start)
        return results, timings

    def label_image(self, image: EncodedImage) -> ImageLabels | ImageError:
        """Label one image alone, in the calling thread."""
        return self.label_prepared([self._prepare(image)])[0]

    def label_pixels(self, image_hwc: Pixels) -> ImageLabels:
        """Label one decoded image.

        Args:
            image_hwc: uint8[H, W, 3], RGB.

        Raises:
            ImageError: The engine could not label it.
        """
        result = self.label_prepared([self._prepared_pixels(image_hwc)])[0]
        if isinstance(result, ImageError):
            raise result
        return result

    def label_prepared(self, batch: Sequence[PreparedImage | ImageError]) -> list[ImageLabels | ImageError]:
        """Label what could be prepared of a batch and pass the errors through, in order."""
        good = [item for item in batch if isinstance(item, PreparedImage)]
        labeled = iter(self._segment(good))
        return [next(labeled) if isinstance(item, PreparedImage) else item for item in batch]

    def _segment(self, batch: Sequence[PreparedImage]) -> list[ImageLabels | ImageError]:
        if not batch:
            return []
        try:
            detections = self._engine.segment([item.pixels for item in batch], [item.size_hw for item in batch])
        except Exception as error:  # whatever the engine meets: find out whose fault it is, one by one
            if len(batch) > 1:
                return [self._segment([item])[0] for item in batch]
            return [_engine_failure(error, batch[0].size_hw)]
        return [self._join_prompts(found, item.size_hw) for found, item in zip(detections, batch, strict=True)]

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

    def _prepare_ahead(self, images: Iterable[EncodedImage]) -> Iterator[PreparedImage | ImageError]:
        """Decode in threads, in order, never more than the look-ahead decoded and waiting."""
        pending: deque[Future[PreparedImage | ImageError]] = deque()
        for image in images:
            pending.append(self._decoders.submit(self._prepare, image))
            if len(pending) >= self._lookahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _prepare(self, image: EncodedImage) -> PreparedImage | ImageError:
        if image.error_kind is not None:
            return ImageError(image.error_kind, image.error_message or image.error_kind)
        try:
            return self._prepared_pixels(decode_image(image.data, max_pixels=self._max_pixels))
        except ImageError as error:
            return error
        except MemoryError:
            return ImageError("out_of_memory", "There was not enough memory to decode the image.")
        except Exception as error:  # a decoder bug must not cost the neighbours
            return ImageError("failed", f"Decoding failed with {type(error).__name__}: {error}")

    def _prepared_pixels(self, image_hwc: Pixels) -> PreparedImage:
        height, width = image_hwc.shape[:2]
        return PreparedImage(resize_for_model(image_hwc, self._engine.image_size), (height, width))


def _engine_failure(error: Exception, size_hw: tuple[int, int]) -> ImageError:
    size = f"{size_hw[1]} x {size_hw[0]}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ImageError("out_of_memory", f"Labeling the {size} image did not fit into memory, even alone: {error}")
    return ImageError("failed", f"Labeling the {size} image failed with {type(error).__name__}: {error}")
