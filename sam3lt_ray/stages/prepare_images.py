"""First half of labeling: images are decoded and brought into the model's form by threads, ahead of the device.

One image's trouble is an :class:`~sam3lt_ray.errors.ImageError` in its place; it never costs its neighbours anything.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam3lt_ray.errors import ImageError
from sam3lt_ray.images.decode import decode_rgb
from sam3lt_ray.images.resize import resize_for_model
from sam3lt_ray.records import EncodedImage

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A decoded image in the model's form, and the size it came from."""

    pixels: Pixels
    size_hw: tuple[int, int]


class ImagePreparer:
    """Decodes and resizes; in any number of threads at once.

    Args:
        image_size: Side in pixels of the square image the model takes.
        max_pixels: Larger images become errors.
        threads: That decode and resize ahead.
        lookahead: Images that may be decoded and waiting, for each caller of :meth:`ahead`.
    """

    def __init__(self, *, image_size: int, max_pixels: int, threads: int, lookahead: int) -> None:
        self._image_size = image_size
        self._max_pixels = max_pixels
        self._lookahead = lookahead
        self._decoders = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="sam3lt-decode")
        self._lock = threading.Lock()
        self._decode_s = 0.0

    @property
    def decode_s(self) -> float:
        """Seconds of all threads together."""
        with self._lock:
            return self._decode_s

    def ahead(self, images: Iterable[EncodedImage]) -> Iterator[PreparedImage | ImageError]:
        """Decode in threads, in order, never more than the look-ahead decoded and waiting."""
        pending: deque[Future[PreparedImage | ImageError]] = deque()
        for image in images:
            pending.append(self._decoders.submit(self.prepare, image))
            if len(pending) >= self._lookahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def prepare(self, image: EncodedImage) -> PreparedImage | ImageError:
        """Decode one image in the calling thread."""
        if image.error_kind is not None:
            return ImageError(image.error_kind, image.error_message or image.error_kind)
        start = time.perf_counter()
        prepared = self._decode(image)
        with self._lock:
            self._decode_s += time.perf_counter() - start
        return prepared

    def prepare_decoded(self, image: Image.Image | Pixels) -> PreparedImage:
        """Only bring it into the model's form.

        Args:
            image: Of mode RGB, or uint8[H, W, 3], RGB.
        """
        height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
        return PreparedImage(resize_for_model(image, self._image_size), (height, width))

    def _decode(self, image: EncodedImage) -> PreparedImage | ImageError:
        try:
            return self.prepare_decoded(decode_rgb(image.data, max_pixels=self._max_pixels))
        except ImageError as error:
            return error
        except MemoryError:
            return ImageError("out_of_memory", "There was not enough memory to decode the image.")
        except Exception as error:  # a decoder bug must not cost the neighbours
            return ImageError("failed", f"Decoding failed with {type(error).__name__}: {error}")
