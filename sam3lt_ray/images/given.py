"""What people hand over from Python as an image, in all its forms, to RGB pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam3lt_ray.errors import ImageError
from sam3lt_ray.images.decode import as_displayed, decode_rgb

GivenImage = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[np.uint8]


def rgb_of(image: GivenImage, *, max_pixels: int) -> Image.Image | npt.NDArray[np.uint8]:
    """Read, decode or just check what is given as an image.

    Args:
        image: A path ("~" is the home directory), a file's bytes or an open binary file, a Pillow image, or
            uint8[H, W, 3], RGB.
        max_pixels: Largest width times height of a file.

    Returns:
        A loaded image of mode RGB as displayed, or the array itself.

    Raises:
        ImageError: It cannot be used; says why.
        OSError: The file is not there (FileNotFoundError) or cannot be read.
        TypeError: It is nothing of that kind.
    """
    if isinstance(image, np.ndarray):
        _check_array(image)
        return image
    if isinstance(image, Image.Image):
        return as_displayed(image)
    return decode_rgb(_bytes_of(image), max_pixels=max_pixels)


def _bytes_of(image: object) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(os.path.expanduser(image)).read_bytes()  # noqa: PTH111 -- pathlib's raises without such a user
    content = image.read() if hasattr(image, "read") else None
    if not isinstance(content, bytes):
        raise TypeError(
            "An image is a path, a file's bytes, an open binary file, a Pillow image or uint8[height, width, 3]; "
            f"this is {type(image).__name__}."
        )
    return content


def _check_array(image: npt.NDArray[np.generic]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(
            "unsupported",
            f"The array is {image.dtype} {list(image.shape)}; expected uint8 [height, width, 3], RGB. Other pixels can "
            "be given as a Pillow image.",
        )
    if image.size == 0:
        raise ImageError("empty", f"The array is {list(image.shape)}: it has no pixels.")
