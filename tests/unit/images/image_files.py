"""Making image files for tests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 60


def gradient() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8[HEIGHT, WIDTH, 3] in which every quarter looks different."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 6, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def rgb_file(image_format: str = "PNG", **options: Any) -> bytes:
    """The gradient as a file."""
    return encode(Image.fromarray(gradient()), image_format, **options)
