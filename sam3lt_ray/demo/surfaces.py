"""Plain, striped and dotted surfaces: what fills a shape."""

from __future__ import annotations

import math

import numpy as np

from sam3lt_ray.demo.arrays import BoolArray, FloatArray


def paint_surface(
    surface: str, colour: FloatArray, size: tuple[int, int], radius: float, rng: np.random.Generator
) -> FloatArray:
    """Fills a rectangle with a surface of one nameable colour.

    The second colour of stripes and dots is a darker shade, black or white, never a lighter tint: a tint of red would
    be pink. It covers less than half of the area, so the name of the colour stays clear.

    Args:
        surface: A name from `palette.SURFACE_NAMES`.
        colour: RGB float32 [3] in 0..255.
        size: Rows and columns of the rectangle.
        radius: Radius of the shape to be filled, in pixels; the pattern scales with it.
        rng: Source of the pattern's direction, period and shading.

    Returns:
        RGB float32 [height, width, 3] in 0..255.
    """
    height, width = size
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None, :]
    angle = rng.uniform(0.0, math.pi)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    along, across = columns * cos + rows * sin, rows * cos - columns * sin
    shading = 1.0 + rng.uniform(-0.12, 0.12) * (along / np.float32(max(height, width)) - np.float32(0.5)) * 2.0
    paint = np.broadcast_to(colour, (height, width, 3))
    if surface != "plain":
        second = _second_colour(colour, rng)
        period = max(5.0, radius * rng.uniform(0.28, 0.5))
        pattern = _stripes(along, period, rng) if surface == "striped" else _dots(along, across, period, rng)
        paint = np.where(pattern[:, :, None], second, colour)
    return np.asarray(paint * shading[:, :, None].astype(np.float32), dtype=np.float32)


def _second_colour(colour: FloatArray, rng: np.random.Generator) -> FloatArray:
    kind = rng.integers(4)
    if kind == 0:
        return np.full(3, 245.0, dtype=np.float32)
    if kind == 1:
        return np.full(3, 18.0, dtype=np.float32)
    return np.asarray(colour * np.float32(rng.uniform(0.45, 0.62)), dtype=np.float32)


def _stripes(along: FloatArray, period: float, rng: np.random.Generator) -> BoolArray:
    phase = (along / np.float32(period) + np.float32(rng.uniform())) % 1.0
    return np.asarray(phase < rng.uniform(0.25, 0.42))


def _dots(along: FloatArray, across: FloatArray, period: float, rng: np.random.Generator) -> BoolArray:
    u = (along / np.float32(period) + np.float32(rng.uniform())) % 1.0 - 0.5
    v = (across / np.float32(period) + np.float32(rng.uniform())) % 1.0 - 0.5
    return np.asarray(u * u + v * v < rng.uniform(0.25, 0.36) ** 2)
