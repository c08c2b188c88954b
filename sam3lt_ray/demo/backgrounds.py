"""Cluttered backgrounds in colours too grey to be named, with nothing on them that has a name."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from sam3lt_ray.demo.arrays import FloatArray
from sam3lt_ray.demo.palette import sample_grey


def paint_background(height: int, width: int, rng: np.random.Generator) -> FloatArray:
    """Paints a background: a gradient, soft-edged blobs, thin lines, coarse and fine texture.

    Returns:
        RGB float32 [height, width, 3] in 0..255.
    """
    # Blobs are drawn small and stretched: no edge of theirs is sharp enough to be taken for an object's.
    shrink = int(rng.integers(5, 12))
    canvas = _gradient(height // shrink, width // shrink, rng)
    _add_blobs(canvas, rng)
    canvas = canvas.resize((width, height), Image.Resampling.BILINEAR)
    _add_lines(canvas, rng)
    image_hwc = np.asarray(canvas, dtype=np.float32)
    return image_hwc + _texture(height, width, rng)


def _gradient(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    # Four corner colours, stretched: Pillow does the interpolation faster than numpy.
    value = (0.12, 0.95) if rng.uniform() < 0.5 else (0.35, 0.8)
    middle, spread = rng.uniform(*value), rng.uniform(0.02, 0.25)
    span = (max(0.05, middle - spread), min(0.98, middle + spread))
    corners = np.stack([sample_grey(rng, span) for _ in range(4)]).reshape(2, 2, 3)
    return Image.fromarray(corners.astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)


def _add_blobs(canvas: Image.Image, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(canvas)
    short = min(canvas.size)
    for _ in range(int(rng.integers(0, 9))):
        count = int(rng.integers(5, 10))
        angles = np.sort(rng.uniform(0.0, 2.0 * math.pi, count))
        radii = short * rng.uniform(0.04, 0.28) * rng.uniform(0.45, 1.0, count)
        center_x, center_y = rng.uniform(0.0, canvas.width), rng.uniform(0.0, canvas.height)
        points = np.stack([center_x + radii * np.cos(angles), center_y + radii * np.sin(angles)], axis=1)
        draw.polygon([float(value) for value in points.ravel()], fill=_fill(rng))


def _add_lines(canvas: Image.Image, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 9))):
        ends = rng.uniform(-0.1, 1.1, 4) * (canvas.width, canvas.height, canvas.width, canvas.height)
        draw.line([float(value) for value in ends], fill=_fill(rng), width=int(rng.integers(1, 4)))


def _fill(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in sample_grey(rng, (0.08, 0.97)))
    return red, green, blue


def _texture(height: int, width: int, rng: np.random.Generator) -> FloatArray:
    cell = int(rng.integers(2, 24))
    coarse = rng.standard_normal((height // cell + 2, width // cell + 2), dtype=np.float32)
    stretched = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(stretched, dtype=np.float32)[:, :, None] * np.float32(rng.uniform(0.0, 12.0))
