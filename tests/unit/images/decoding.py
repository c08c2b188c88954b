"""Decoding as tests ask for it."""

from __future__ import annotations

import numpy as np
import pytest

from sam3lt_ray.errors import ImageError
from sam3lt_ray.images.decode import decode_image

LIMIT = 1_000_000


def decode(data: bytes, max_pixels: int = LIMIT) -> np.ndarray:  # type: ignore[type-arg]
    return decode_image(data, max_pixels=max_pixels)


def refused(data: bytes, max_pixels: int = LIMIT) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, max_pixels=max_pixels)
    return caught.value


def outcome(data: bytes, max_pixels: int = LIMIT) -> str:
    try:
        decode_image(data, max_pixels=max_pixels)
    except ImageError as error:
        return error.kind
    return "decoded"
