"""One colour per label: the same in the table, in every picture and from run to run."""

from __future__ import annotations

import colorsys
from typing import Final, TypeAlias

Rgb: TypeAlias = tuple[int, int, int]

# Neighbours in a vocabulary get hues that are far apart; every eighth label also changes in lightness.
_GOLDEN_RATIO: Final = 0.6180339887
_TONES: Final = ((0.58, 0.85), (0.46, 0.80), (0.70, 0.90))
# "red car" in green would be read wrongly at a glance.
_HUES: Final = {
    "red": 0.0, "orange": 0.075, "yellow": 0.15, "green": 0.35, "cyan": 0.5, "blue": 0.6, "purple": 0.76, "pink": 0.9,
}  # fmt: skip


def label_color(position: int, name: str = "") -> Rgb:
    """Colour of a label; readable over photographs and on light and dark pages.

    Args:
        position: The label's position in the vocabulary.
        name: Its name; one that says a colour gets that colour.
    """
    named_hues = [_HUES[word] for word in name.casefold().split() if word in _HUES]
    hue = named_hues[0] if named_hues else (0.58 + position * _GOLDEN_RATIO) % 1.0
    lightness, saturation = _TONES[(position // 8) % len(_TONES)]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def css_color(color: Rgb) -> str:
    """The colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def text_color_on(color: Rgb) -> Rgb:
    """Black or white, whichever is easier to read on a colour (relative luminance of WCAG 2)."""
    channels = [value / 255 for value in color]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)
