"""Pictures: masks, outlines and names end up where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sam3lt_ray.labels.reading import LabeledImage
from sam3lt_ray.records import Instance
from sam3lt_ray.report.colors import label_color, text_color_on
from sam3lt_ray.report.overlay import render_overlay, shown_instances
from tests.run_factory import make_failed_image, make_image, make_instance

NAMES = {4: "cat", 8: "dog"}
SIZE_HW = (120, 200)


def _rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def _scene(*instances: Instance) -> tuple[np.ndarray, LabeledImage]:
    pixels = np.full((*SIZE_HW, 3), 90, dtype=np.uint8)
    return pixels, make_image("a.jpg", size_hw=SIZE_HW, presence={4: 1, 8: 1}, instances=instances)


def test_mask_is_tinted_outlined_and_the_rest_left_alone() -> None:
    pixels, labeled = _scene(make_instance(_rectangle(50, 110, 20, 180), label_id=8, score=0.9))
    overlay = np.asarray(render_overlay(pixels, labeled, NAMES, 400)).astype(int)

    color = np.array(label_color(1, "dog"))
    assert overlay.shape == (240, 400, 3)
    tinted = overlay[205, 300]
    assert np.abs(tinted - (90 + 0.36 * (color - 90))).max() <= 3
    assert np.abs(overlay[218, 200] - color).max() <= 25  # the outline, inside the mask's lower edge
    assert np.abs(tinted - color).max() > 60
    assert (overlay[221, 200] < 85).all()  # the dark line around it, fading out
    assert (overlay[235, 200] == 90).all()
    assert (overlay[5, 5] == 90).all()


def test_a_mask_at_the_pictures_edge_is_outlined_there() -> None:
    pixels, labeled = _scene(make_instance(np.ones(SIZE_HW, dtype=bool), label_id=8, score=0.9))
    overlay = np.asarray(render_overlay(pixels, labeled, NAMES, 200)).astype(int)
    for row, column in ((119, 100), (100, 0), (100, 199)):
        assert np.abs(overlay[row, column] - np.array(label_color(1, "dog"))).max() <= 3


def test_a_hole_stays_a_hole() -> None:
    mask = _rectangle(10, 110, 20, 180)
    mask[40:80, 60:140] = False
    pixels, labeled = _scene(make_instance(mask, label_id=4, score=0.9))
    overlay = np.asarray(render_overlay(pixels, labeled, NAMES, 200))
    assert (overlay[70, 100] == 90).all()
    assert (overlay[95, 100] != 90).any()


def test_scores_below_the_threshold_are_not_drawn() -> None:
    low = make_instance(_rectangle(50, 110, 20, 180), label_id=4, score=0.45)
    pixels, labeled = _scene(low)
    assert (np.asarray(render_overlay(pixels, labeled, NAMES, 200)) == 90).all()
    assert (np.asarray(render_overlay(pixels, labeled, NAMES, 200, score_thresholds={4: 0.4})) != 90).any()
    assert shown_instances(labeled, {4: 0.46}) == []


def test_large_images_shrink_and_small_ones_grow_at_most_threefold() -> None:
    pixels, labeled = _scene()
    assert render_overlay(pixels, labeled, NAMES, 50).size == (50, 30)
    assert render_overlay(pixels, labeled, NAMES, 5000).size == (600, 360)


def test_without_the_image_a_grey_area_takes_its_place() -> None:
    _, labeled = _scene(make_instance(_rectangle(60, 110, 20, 180), label_id=4, score=0.9))
    overlay = np.asarray(render_overlay(None, labeled, NAMES, 200))
    assert (overlay[5, 5] == 150).all()
    assert (overlay[100, 150] != 150).any()


def test_names_do_not_cover_each_other_when_there_is_room() -> None:
    mask = _rectangle(50, 90, 60, 160)
    both = [make_instance(mask, label_id=4, score=0.95), make_instance(mask, label_id=8, score=0.9)]
    together = render_overlay(*_scene(*both), NAMES, 600)
    for position, instance in enumerate(both):
        color = label_color(position, NAMES[instance.label_id])
        alone = render_overlay(*_scene(instance), NAMES, 600)
        assert _plate_pixels(together, color) > 0.8 * _plate_pixels(alone, color) > 100


def _plate_pixels(overlay: Image.Image, color: tuple[int, int, int]) -> int:
    """Pixels of a name's plate, which is nearly opaque; a tinted mask is far from the pure colour."""
    return int((np.abs(np.asarray(overlay).astype(int) - color).max(axis=2) <= 16).sum())


def test_odd_names_empty_masks_and_unknown_labels_can_be_drawn() -> None:
    instances = [
        make_instance(np.zeros(SIZE_HW, dtype=bool), label_id=4, score=0.9),
        make_instance(_rectangle(0, 1, 0, 1), label_id=77, score=0.9),
        make_instance(_rectangle(119, 120, 199, 200), label_id=8, score=0.9),
    ]
    pixels, labeled = _scene(*instances)
    names = {4: "x" * 400, 8: "ein\nName mit 照片 😀"}
    assert render_overlay(pixels, labeled, names, 60).size == (60, 36)
    assert render_overlay(pixels, labeled, names, 600).size == (600, 360)


def test_what_does_not_fit_together_is_refused() -> None:
    pixels, labeled = _scene()
    with pytest.raises(ValueError, match="120 x 200 pixels, but 200 x 120"):
        render_overlay(np.ascontiguousarray(pixels.transpose(1, 0, 2)), labeled, NAMES)
    with pytest.raises(ValueError, match="was not labeled"):
        render_overlay(None, make_failed_image("x.jpg"), NAMES)


def test_neighbouring_labels_differ_and_names_of_colours_are_respected() -> None:
    colors = [label_color(position) for position in range(24)]
    assert len(set(colors)) == 24
    red, green = label_color(3, "Red circle"), label_color(3, "dark green leaf")
    assert red[0] > 1.5 * max(red[1:])
    assert green[1] > 1.5 * green[0]
    assert text_color_on((255, 255, 0)) == (0, 0, 0)
    assert text_color_on((20, 20, 120)) == (255, 255, 255)
