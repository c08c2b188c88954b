"""Outlines of the demo shapes and their antialiased rasterisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sam3lt_ray.demo.arrays import ByteArray

_SUPERSAMPLING = 3
_RING_HOLE = 0.56  # inner radius of a ring, as a share of the outer one

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ShapeStamp:
    """A rasterised shape and where it goes.

    Attributes:
        coverage: How much of each pixel the shape covers, uint8 [h, w], 255 is all of it.
        left: Column of the stamp's first column in the image; may be negative.
        top: Row of the stamp's first row in the image; may be negative.
    """

    coverage: ByteArray
    left: int
    top: int


@cache
def unit_outline(shape: str) -> Points:
    """The outline of a shape inside the unit circle, as float64 [n, 2] points (x, y)."""
    if shape in ("circle", "ring"):
        return _polar(np.linspace(0.0, 2.0 * math.pi, 56, endpoint=False), [1.0])
    if shape == "square":
        return _polar(np.arange(4) * (math.pi / 2) + math.pi / 4, [1.0])
    if shape == "triangle":
        return _polar(np.arange(3) * (2 * math.pi / 3) - math.pi / 2, [1.0])
    if shape == "star":
        return _polar(np.arange(10) * (math.pi / 5) - math.pi / 2, [1.0, 0.44] * 5)
    if shape == "cross":
        far, near = 0.93, 0.34
        quarter = np.array([(near, -far), (near, -near), (far, -near)])
        turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
        return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])
    if shape == "heart":
        t = np.linspace(0.0, 2.0 * math.pi, 48, endpoint=False)
        x = 16.0 * np.sin(t) ** 3
        y = -(13.0 * np.cos(t) - 5.0 * np.cos(2 * t) - 2.0 * np.cos(3 * t) - np.cos(4 * t))
        return np.stack([x, y - 2.0], axis=1) / 17.0
    raise ValueError(f"unknown shape {shape!r}; expected one of the names in palette.SHAPE_NAMES")


def rasterise_shape(shape: str, center_xy: tuple[float, float], radius: float, angle_rad: float) -> ShapeStamp:
    """Draws one shape with antialiased edges.

    Args:
        shape: A name from `palette.SHAPE_NAMES`.
        center_xy: Centre in image pixels.
        radius: Radius of the circle around the shape, in image pixels.
        angle_rad: Clockwise rotation.
    """
    reach = math.ceil(radius) + 1
    left, top = math.floor(center_xy[0]) - reach, math.floor(center_xy[1]) - reach
    side = 2 * reach + 2
    canvas = Image.new("L", (side * _SUPERSAMPLING, side * _SUPERSAMPLING), 0)
    draw = ImageDraw.Draw(canvas)
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    turned = unit_outline(shape) @ np.array([[cos, sin], [-sin, cos]])
    offset = np.array([center_xy[0] - left, center_xy[1] - top])
    draw.polygon(_flatten((turned * radius + offset) * _SUPERSAMPLING), fill=255)
    if shape == "ring":
        draw.polygon(_flatten((turned * (radius * _RING_HOLE) + offset) * _SUPERSAMPLING), fill=0)
    return ShapeStamp(np.asarray(canvas.reduce(_SUPERSAMPLING)), left, top)


def _polar(angles: npt.ArrayLike, radii: list[float]) -> Points:
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1, dtype=np.float64)
    return np.asarray(directions * np.asarray(radii)[:, None])


def _flatten(points: Points) -> list[float]:
    return [float(value) for value in points.ravel()]
