"""The model's input size: what the documented image processor does, without its dependencies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image


def resize_for_model(image: Image.Image | npt.NDArray[np.uint8], image_size: int) -> npt.NDArray[np.uint8]:
    """Squash an image to a square, bilinear with antialiasing; the aspect ratio is not kept.

    This is the geometry the documented processor uses (its results differ by rounding of single grey levels at most).

    Args:
        image: Of mode RGB, or uint8[height, width, 3], RGB.
        image_size: Side of the square in pixels.

    Returns:
        uint8[image_size, image_size, 3], writable and contiguous.

    Raises:
        ValueError: The image is not RGB, the array no uint8 RGB image, or the size below 1.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8[height, width, 3], got {image.dtype}{list(image.shape)}")
        image = Image.fromarray(image)
    if image.mode != "RGB":
        raise ValueError(f"expected an image of mode RGB, got {image.mode}")
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    # reducing_gap=None: one exact pass. The shortcut it stands for changes pixels.
    return np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR, reducing_gap=None))
