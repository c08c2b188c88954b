"""The phrases that the demo checkpoint knows, and which objects each of them names."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Final

import numpy as np
import yaml

from sam3lt_ray.demo.arrays import BoolArray
from sam3lt_ray.demo.palette import COLOUR_NAMES, SHAPE_NAMES

ANY_SHAPE: Final = "shape"
NUM_OBJECT_CLASSES: Final = len(COLOUR_NAMES) * len(SHAPE_NAMES)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase of one of three kinds: "red circle", "circle", or "red shape".

    Attributes:
        colour: The colour asked for, or None where every colour will do.
        shape: The shape asked for, or None where every shape will do.
    """

    colour: str | None
    shape: str | None

    @property
    def text(self) -> str:
        """The phrase as a person would type it."""
        return " ".join(word for word in (self.colour, self.shape or ANY_SHAPE) if word)

    def matches(self, colour: str, shape: str) -> bool:
        """Whether an object of this colour and shape is what the phrase names."""
        return self.colour in (None, colour) and self.shape in (None, shape)


def known_phrases() -> tuple[Phrase, ...]:
    """Every phrase the checkpoint is trained to find: 56 pairs, 7 shapes, 8 colours."""
    pairs = [Phrase(colour, shape) for colour in COLOUR_NAMES for shape in SHAPE_NAMES]
    shapes = [Phrase(None, shape) for shape in SHAPE_NAMES]
    colours = [Phrase(colour, None) for colour in COLOUR_NAMES]
    return (*pairs, *shapes, *colours)


def parse_phrase(text: str) -> Phrase | None:
    """Reads a label such as "Red circle"; None where it is not one of the known phrases, so that nothing matches it."""
    return {phrase.text: phrase for phrase in known_phrases()}.get(" ".join(text.lower().split()))


def object_class(colour: str, shape: str) -> int:
    """The number of a (colour, shape) pair, from 0 to `NUM_OBJECT_CLASSES` - 1."""
    return COLOUR_NAMES.index(colour) * len(SHAPE_NAMES) + SHAPE_NAMES.index(shape)


def match_table(phrases: tuple[Phrase, ...]) -> BoolArray:
    """Which object class each phrase names, bool [num_phrases, NUM_OBJECT_CLASSES]."""
    rows = [[phrase.matches(colour, shape) for colour in COLOUR_NAMES for shape in SHAPE_NAMES] for phrase in phrases]
    return np.asarray(rows, dtype=np.bool_)


def demo_labels() -> tuple[str, ...]:
    """The 20 label names of the demo vocabulary that ships in the package."""
    text = resources.files("sam3lt_ray.demo").joinpath("vocabulary.yaml").read_text(encoding="utf-8")
    return tuple(str(name) for name in yaml.safe_load(text)["labels"])
