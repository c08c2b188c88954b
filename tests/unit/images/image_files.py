"""Making image files for tests."""

from __future__ import annotations

import io
import struct
import zlib
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


def huge_header(image_format: str, width: int, height: int) -> bytes:
    """A small file that claims to be of that size."""
    data = bytearray(rgb_file(image_format))
    if image_format == "PNG":
        header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # 1 bit grey: little memory
        data[16:33] = header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    elif image_format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    else:
        data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)
