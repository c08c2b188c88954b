"""The colours, shapes and surfaces that demo scenes are made of."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Final

import numpy as np

from sam3lt_ray.demo.arrays import FloatArray


@dataclass(frozen=True, slots=True)
class ColourRange:
    """The part of HSV space that one colour name covers: hue in degrees, saturation and value in 0..1."""

    hue_deg: float
    hue_spread_deg: float
    saturation: tuple[float, float]
    value: tuple[float, float]


# Neighbouring ranges keep at least 15 degrees of hue between them, so that noise, blur and chroma subsampling cannot
# turn one name into another; pink is told from red by its low saturation as well.
COLOURS: Final[dict[str, ColourRange]] = {
    "red": ColourRange(1.0, 5.0, (0.82, 1.0), (0.72, 0.98)),
    "orange": ColourRange(28.0, 4.0, (0.85, 1.0), (0.88, 1.0)),
    "yellow": ColourRange(55.0, 4.0, (0.75, 1.0), (0.88, 1.0)),
    "green": ColourRange(122.0, 14.0, (0.65, 1.0), (0.5, 0.85)),
    "cyan": ColourRange(182.0, 7.0, (0.6, 1.0), (0.75, 1.0)),
    "blue": ColourRange(228.0, 9.0, (0.75, 1.0), (0.65, 1.0)),
    "purple": ColourRange(276.0, 8.0, (0.6, 0.95), (0.5, 0.82)),
    "pink": ColourRange(331.0, 7.0, (0.38, 0.6), (0.9, 1.0)),
}
COLOUR_NAMES: Final[tuple[str, ...]] = tuple(COLOURS)
SHAPE_NAMES: Final[tuple[str, ...]] = ("circle", "square", "triangle", "star", "ring", "cross", "heart")
SURFACE_NAMES: Final[tuple[str, ...]] = ("plain", "striped", "dotted")


def sample_colour(name: str, rng: np.random.Generator) -> FloatArray:
    """Draws one RGB colour that people call `name`; float32 [3] in 0..255."""
    span = COLOURS[name]
    hue = (span.hue_deg + rng.uniform(-span.hue_spread_deg, span.hue_spread_deg)) % 360.0
    rgb = colorsys.hsv_to_rgb(hue / 360.0, rng.uniform(*span.saturation), rng.uniform(*span.value))
    return np.asarray(rgb, dtype=np.float32) * 255.0


def sample_grey(rng: np.random.Generator, value: tuple[float, float], max_saturation: float = 0.13) -> FloatArray:
    """Draws an RGB colour too unsaturated to be called by any colour name; float32 [3] in 0..255."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, max_saturation), rng.uniform(*value))
    return np.asarray(rgb, dtype=np.float32) * 255.0
