"""Rendered demo scenes: coloured shapes on clutter, each with its exact visible mask.

A scene is a function of (seed, index) alone, so a held-out set is a seed that training never uses.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sam3lt_ray.demo.arrays import BoolArray, ByteArray, FloatArray
from sam3lt_ray.demo.backgrounds import paint_background
from sam3lt_ray.demo.degrade import encode_degraded, sample_degradation
from sam3lt_ray.demo.palette import COLOUR_NAMES, SHAPE_NAMES, SURFACE_NAMES, sample_colour
from sam3lt_ray.demo.shapes import ShapeStamp, rasterise_shape
from sam3lt_ray.demo.surfaces import paint_surface

MAX_OBJECTS = 8
MIN_VISIBLE_SHARE = 0.45  # of the whole shape, cut off by other objects or by the image's edge
_MIN_VISIBLE_AREA = 0.006  # of the short side squared
_MAX_SAME_COLOUR_OVERLAP = 0.01  # two red things that overlap would show no edge between them
_PLACEMENT_TRIES = 12


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object as it can be seen.

    Attributes:
        colour: A name from `palette.COLOUR_NAMES`.
        shape: A name from `palette.SHAPE_NAMES`.
        surface: A name from `palette.SURFACE_NAMES`.
        mask_hw: Its visible pixels, bool [height, width].
    """

    colour: str
    shape: str
    surface: str
    mask_hw: BoolArray

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """The box around the visible pixels; the right and bottom edges are exclusive."""
        rows = np.flatnonzero(self.mask_hw.any(axis=1))
        columns = np.flatnonzero(self.mask_hw.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, slots=True)
class Scene:
    """An image as a JPEG file's bytes, its size in pixels, and the objects on it from back to front."""

    jpeg: bytes
    height: int
    width: int
    objects: tuple[SceneObject, ...]

    def image_hwc(self) -> ByteArray:
        """The decoded image, RGB uint8 [height, width, 3]."""
        with Image.open(io.BytesIO(self.jpeg)) as image:
            return np.asarray(image.convert("RGB"))


@dataclass(slots=True)
class _Placed:
    colour: str
    shape: str
    surface: str
    visible_hw: BoolArray
    min_visible: float


def render_scene(seed: int, index: int) -> Scene:
    """Renders scene number `index` of the endless series `seed`; the same arguments give the same bytes."""
    rng = np.random.default_rng([seed, index])
    height, width = _sample_size(rng)
    canvas = paint_background(height, width, rng)
    num_objects = int(rng.integers(1, MAX_OBJECTS + 1))
    placed: list[_Placed] = []
    for _ in range(num_objects):
        _place_object(canvas, placed, num_objects, rng)
    jpeg = encode_degraded(canvas, sample_degradation(rng), rng)
    objects = tuple(SceneObject(item.colour, item.shape, item.surface, item.visible_hw) for item in placed)
    return Scene(jpeg, height, width, objects)


def _sample_size(rng: np.random.Generator) -> tuple[int, int]:
    aspect = 2.0 ** rng.uniform(-1.0, 1.0)
    short = rng.uniform(200.0, min(340.0, 480.0 / max(aspect, 1.0 / aspect)))
    height, width = (short, short * aspect) if aspect >= 1.0 else (short / aspect, short)
    return round(height), round(width)


def _place_object(canvas: FloatArray, placed: list[_Placed], num_objects: int, rng: np.random.Generator) -> None:
    """Paints one more object where it leaves enough of the others visible; gives up after some tries.

    The first object always finds a place, so a scene is never empty.
    """
    height, width = canvas.shape[:2]
    short = min(height, width)
    colour, shape = str(rng.choice(COLOUR_NAMES)), str(rng.choice(SHAPE_NAMES))
    surface = str(rng.choice(SURFACE_NAMES, p=(0.5, 0.25, 0.25)))
    largest = min(0.56, 1.15 / math.sqrt(num_objects))
    for _ in range(_PLACEMENT_TRIES):
        radius = 0.5 * short * rng.uniform(0.2, largest)
        center_xy = (rng.uniform(0.7 * radius, width - 0.7 * radius), rng.uniform(0.7 * radius, height - 0.7 * radius))
        stamp = rasterise_shape(shape, center_xy, radius, rng.uniform(0.0, 2.0 * math.pi))
        visible_hw = _stamp_mask(stamp, height, width)
        whole_area = np.count_nonzero(stamp.coverage >= 128)
        min_visible = max(MIN_VISIBLE_SHARE * whole_area, _MIN_VISIBLE_AREA * short * short)
        if np.count_nonzero(visible_hw) < min_visible or not _leaves_others_visible(visible_hw, colour, placed):
            continue
        for other in placed:
            other.visible_hw &= ~visible_hw
        placed.append(_Placed(colour, shape, surface, visible_hw, min_visible))
        _paint(canvas, stamp, surface, sample_colour(colour, rng), radius, rng)
        return
    if not placed:
        _place_object(canvas, placed, num_objects, rng)


def _leaves_others_visible(mask_hw: BoolArray, colour: str, placed: list[_Placed]) -> bool:
    for other in placed:
        hidden = np.count_nonzero(other.visible_hw & mask_hw)
        visible = np.count_nonzero(other.visible_hw)
        if visible - hidden < other.min_visible:
            return False
        if other.colour == colour and hidden > _MAX_SAME_COLOUR_OVERLAP * visible:
            return False
    return True


def _clip(stamp: ShapeStamp, height: int, width: int) -> tuple[slice, slice, slice, slice]:
    """Where a stamp lies in the image (rows, columns) and which part of it that is (rows, columns)."""
    side_h, side_w = stamp.coverage.shape
    top, left = max(stamp.top, 0), max(stamp.left, 0)
    bottom, right = min(stamp.top + side_h, height), min(stamp.left + side_w, width)
    rows, columns = slice(top, bottom), slice(left, right)
    return rows, columns, slice(top - stamp.top, bottom - stamp.top), slice(left - stamp.left, right - stamp.left)


def _stamp_mask(stamp: ShapeStamp, height: int, width: int) -> BoolArray:
    rows, columns, stamp_rows, stamp_columns = _clip(stamp, height, width)
    mask_hw = np.zeros((height, width), dtype=np.bool_)
    mask_hw[rows, columns] = stamp.coverage[stamp_rows, stamp_columns] >= 128
    return mask_hw


def _paint(
    canvas: FloatArray, stamp: ShapeStamp, surface: str, colour: FloatArray, radius: float, rng: np.random.Generator
) -> None:
    rows, columns, stamp_rows, stamp_columns = _clip(stamp, canvas.shape[0], canvas.shape[1])
    size = (stamp.coverage.shape[0], stamp.coverage.shape[1])
    paint = paint_surface(surface, colour, size, radius, rng)[stamp_rows, stamp_columns]
    alpha = (stamp.coverage[stamp_rows, stamp_columns].astype(np.float32) / 255.0)[:, :, None]
    region = canvas[rows, columns]
    region += alpha * (paint - region)
