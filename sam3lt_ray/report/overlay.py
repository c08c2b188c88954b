"""A picture with what was found drawn over it: translucent masks, outlines, names and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from sam3lt_ray.labels.reading import LabeledImage
from sam3lt_ray.masks import rle
from sam3lt_ray.records import Instance, Rle
from sam3lt_ray.report.colors import Rgb, label_color, text_color_on

_MASK_OPACITY: Final = 0.36
_HALO_OPACITY: Final = 0.55
_LARGEST_ENLARGEMENT: Final = 3.0  # small images are enlarged, so that names fit beside the objects
_GREY: Final = 150
_WHITE: Final = (255, 255, 255)
_LONGEST_NAME: Final = 28
_MARGIN: Final = 3  # room around a mask for its outline, in pixels of the picture
_PixelBox: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A mask at the picture's size ("L"), and where its left top corner belongs."""

    mask: Image.Image
    corner: tuple[int, int]

    @property
    def box_xyxy(self) -> _PixelBox:
        left, top = self.corner
        return left, top, left + self.mask.width, top + self.mask.height


def render_overlay(
    image_hwc: npt.NDArray[np.uint8] | None,
    labeled: LabeledImage,
    label_names: Mapping[int, str],
    max_side: int = 640,
    *,
    score_thresholds: Mapping[int, float] | None = None,
) -> Image.Image:
    """Draw the instances of an image over it.

    Args:
        image_hwc: uint8[H, W, 3], RGB as displayed; None: a grey area takes its place.
        labeled: What was found, for an image of that size.
        label_names: Name by label id, in the vocabulary's order, which decides the colours.
        max_side: Longer side of the result in pixels; small images are enlarged, at most threefold.
        score_thresholds: Least score by label id; None or a missing label: 0.5.

    Returns:
        An RGB image.

    Raises:
        ValueError: The image was not labeled, or has another size than when it was labeled.
    """
    if labeled.width is None or labeled.height is None:
        raise ValueError(f"image {labeled.key!r} was not labeled ({labeled.error_kind}), so there is nothing to draw")
    if image_hwc is not None and image_hwc.shape[:2] != (labeled.height, labeled.width):
        height, width = image_hwc.shape[:2]
        raise ValueError(
            f"image {labeled.key!r} is {width} x {height} pixels, but {labeled.width} x {labeled.height} were labeled"
        )
    canvas = _canvas(image_hwc, labeled.width, labeled.height, max_side)
    colors = {label_id: label_color(n, name) for n, (label_id, name) in enumerate(label_names.items())}
    shown = shown_instances(labeled, score_thresholds or {})
    by_size = sorted(shown, key=lambda found: -found.area)  # small objects end on top
    stamps = [(_stamp(found.mask, canvas.size), colors.get(found.label_id, _WHITE)) for found in by_size]
    for stamp, color in stamps:
        _tint(canvas, stamp, color)
    for stamp, color in stamps:
        _outline(canvas, stamp, color)
    _write_names(canvas, shown, label_names, colors, canvas.width / labeled.width)
    return canvas


def shown_instances(labeled: LabeledImage, score_thresholds: Mapping[int, float]) -> list[Instance]:
    """Instances with at least their label's threshold (0.5 where none is given), best first."""
    kept = [found for found in labeled.instances if found.score >= score_thresholds.get(found.label_id, 0.5)]
    return sorted(kept, key=lambda found: -found.score)


def _canvas(image_hwc: npt.NDArray[np.uint8] | None, width: int, height: int, max_side: int) -> Image.Image:
    scale = min(max_side / max(width, height), _LARGEST_ENLARGEMENT)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    if image_hwc is None:
        return Image.new("RGB", size_wh, (_GREY, _GREY, _GREY))
    return Image.fromarray(image_hwc).resize(size_wh, Image.Resampling.LANCZOS)


def _stamp(mask: Rle, canvas_wh: tuple[int, int]) -> _Stamp:
    """The mask at the picture's size, cut to where it is; grey values along its border keep the outline smooth."""
    pixels = Image.fromarray(np.ascontiguousarray(rle.decode_mask(mask).astype(np.uint8) * np.uint8(255)))
    scale_x, scale_y = canvas_wh[0] / pixels.width, canvas_wh[1] / pixels.height
    x, y, width, height = rle.box_xywh(mask)
    left, top = max(0, math.floor(x * scale_x) - _MARGIN), max(0, math.floor(y * scale_y) - _MARGIN)
    right = min(canvas_wh[0], math.ceil((x + width) * scale_x) + _MARGIN)
    bottom = min(canvas_wh[1], math.ceil((y + height) * scale_y) + _MARGIN)
    source = (left / scale_x, top / scale_y, min(right / scale_x, pixels.width), min(bottom / scale_y, pixels.height))
    method = Image.Resampling.BOX if scale_x < 1 else Image.Resampling.BICUBIC
    return _Stamp(pixels.resize((right - left, bottom - top), method, box=source), (left, top))


def _tint(canvas: Image.Image, stamp: _Stamp, color: Rgb) -> None:
    canvas.paste(color, stamp.box_xyxy, _with_opacity(stamp.mask, _MASK_OPACITY))


def _outline(canvas: Image.Image, stamp: _Stamp, color: Rgb) -> None:
    """A coloured line along the border with a dark one around it, so that it shows on every background."""
    # Framed by nothing, else a mask that reaches the picture's edge would have no outline there.
    width, height = stamp.mask.size
    framed = Image.new("L", (width + 4, height + 4))
    framed.paste(stamp.mask, (2, 2))
    inside = (2, 2, width + 2, height + 2)
    halo = ImageChops.subtract(framed.filter(ImageFilter.MaxFilter(3)), framed).crop(inside)
    line = ImageChops.subtract(framed, framed.filter(ImageFilter.MinFilter(5))).crop(inside)
    canvas.paste((0, 0, 0), stamp.box_xyxy, _with_opacity(halo, _HALO_OPACITY))
    canvas.paste(color, stamp.box_xyxy, line)


def _with_opacity(mask: Image.Image, opacity: float) -> Image.Image:
    return mask.point([round(value * opacity) for value in range(256)])


def _write_names(
    canvas: Image.Image,
    shown: Sequence[Instance],
    label_names: Mapping[int, str],
    colors: Mapping[int, Rgb],
    scale: float,
) -> None:
    """Name and score at each object, best first; a name goes where it hides no other, if there is such a place."""
    draw = ImageDraw.Draw(canvas, "RGBA")
    font = ImageFont.load_default(size=max(11, round(max(canvas.size) / 40)))
    taken: list[_PixelBox] = []
    boxes_xywh = rle.boxes_xywh([found.mask for found in shown]) * scale
    for found, box_xywh in zip(shown, boxes_xywh.tolist(), strict=True):
        name = label_names.get(found.label_id, f"label {found.label_id}")
        name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        text = f"{name} {found.score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        size_wh = (round(right - left) + 8, round(bottom - top) + 6)
        plate = _free_place(box_xywh, size_wh, canvas.size, taken)
        taken.append(plate)
        color = colors.get(found.label_id, _WHITE)
        draw.rounded_rectangle(plate, radius=3, fill=(*color, 235))
        draw.text((plate[0] + 4 - left, plate[1] + 3 - top), text, font=font, fill=text_color_on(color))


def _free_place(
    box_xywh: Sequence[float], size_wh: tuple[int, int], canvas_wh: tuple[int, int], taken: Sequence[_PixelBox]
) -> _PixelBox:
    """Above the object, inside it at its top, below it, at its middle: the first that overlaps no other name."""
    x, y, box_width, box_height = box_xywh
    width, height = size_wh
    middle_x, middle_y = x + (box_width - width) / 2, y + (box_height - height) / 2
    corners = [(x, y - height - 2), (x + 2, y + 3), (x, y + box_height + 2), (middle_x, middle_y)]
    corners += [(x + box_width - width, y - height - 2), (x + box_width - width, y + box_height + 2)]
    places = [_inside(round(left), round(top), size_wh, canvas_wh) for left, top in corners]
    return min(places, key=lambda place: sum(_shared_area(place, other) for other in taken))


def _inside(left: int, top: int, size_wh: tuple[int, int], canvas_wh: tuple[int, int]) -> _PixelBox:
    left = max(0, min(left, canvas_wh[0] - size_wh[0]))
    top = max(0, min(top, canvas_wh[1] - size_wh[1]))
    return left, top, left + size_wh[0], top + size_wh[1]


def _shared_area(a: _PixelBox, b: _PixelBox) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
