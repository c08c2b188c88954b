"""Images for the comparison: JPEG files with the frequencies of photographs, the same on every machine."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image

from sam3lt_ray.benchmark.workloads import ImageSet

_QUALITY: Final = 90
_ONE_SIZE_WH: Final = (1280, 960)
_MIX_WH: Final = ((640, 480), (1280, 960), (1920, 1080), (4000, 3000), (480, 640), (333, 500))
_OCTAVES: Final = ((4, 70.0), (12, 40.0), (40, 22.0), (130, 12.0))  # cells along the longer side, and their contrast


def size_wh(images: ImageSet, index: int, longest: int | None = None) -> tuple[int, int]:
    """Width and height of an image.

    Args:
        images: Which set.
        index: Number of the image.
        longest: Sides are scaled down to at most this, for the small form.
    """
    width, height = _ONE_SIZE_WH if images == "one size" else _MIX_WH[index % len(_MIX_WH)]
    if longest is not None and max(width, height) > longest:
        scale = longest / max(width, height)
        width, height = round(width * scale), round(height * scale)
    return width, height


def make_photo(images: ImageSet, index: int, longest: int | None = None) -> bytes:
    """One JPEG file: smooth noise of several sizes over a gradient, and grain.

    Args:
        images: Which set.
        index: Number of the image.
        longest: As in :func:`size_wh`.
    """
    width, height = size_wh(images, index, longest)
    random = np.random.RandomState(1000 * (images == "mix") + index)  # frozen: the same bytes with every NumPy
    ramp = np.linspace(-40, 40, width, dtype=np.float32)[None, :] + np.linspace(-30, 30, height)[:, None]
    canvas = np.repeat((128 + ramp)[:, :, None], 3, axis=2).astype(np.float32)
    for cells, contrast in _OCTAVES:
        rows = max(2, cells * height // max(width, height))
        columns = max(2, cells * width // max(width, height))
        coarse = random.normal(128, contrast, (rows, columns, 3)).clip(0, 255).astype(np.uint8)
        fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        canvas += np.asarray(fine, dtype=np.float32) - 128
    canvas += random.normal(0, 4, (height, width, 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
