"""Rendered scenes: deterministic, varied, and true to what they promise about their objects."""

from __future__ import annotations

import numpy as np
import pytest

from sam3lt_ray.demo.palette import COLOUR_NAMES, SHAPE_NAMES, SURFACE_NAMES
from sam3lt_ray.demo.scenes import MAX_OBJECTS, Scene, render_scene
from sam3lt_ray.demo.shapes import rasterise_shape


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(77, index) for index in range(60)]


def test_same_arguments_give_the_same_bytes(scenes: list[Scene]) -> None:
    again = render_scene(77, 3)
    assert again.jpeg == scenes[3].jpeg
    assert all(
        np.array_equal(one.mask_hw, two.mask_hw) for one, two in zip(again.objects, scenes[3].objects, strict=True)
    )
    assert render_scene(78, 3).jpeg != again.jpeg


def test_image_and_masks_have_the_size_the_scene_states(scenes: list[Scene]) -> None:
    for scene in scenes[:10]:
        assert scene.image_hwc().shape == (scene.height, scene.width, 3)
        assert all(item.mask_hw.shape == (scene.height, scene.width) for item in scene.objects)


def test_scenes_vary(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    assert {item.colour for item in objects} == set(COLOUR_NAMES)
    assert {item.shape for item in objects} == set(SHAPE_NAMES)
    assert {item.surface for item in objects} == set(SURFACE_NAMES)
    assert {len(scene.objects) for scene in scenes} >= {1, 2, 4, 6}
    assert max(len(scene.objects) for scene in scenes) <= MAX_OBJECTS
    aspects = [scene.width / scene.height for scene in scenes]
    assert min(aspects) < 0.7
    assert max(aspects) > 1.4


def test_every_object_is_visible_and_no_pixel_belongs_to_two(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.objects
        owners = np.sum([item.mask_hw for item in scene.objects], axis=0)
        assert owners.max() == 1
        short = min(scene.height, scene.width)
        assert all(item.mask_hw.sum() >= 0.006 * short * short for item in scene.objects)


def test_some_objects_hide_parts_of_others() -> None:
    hidden = 0
    for index in range(20):
        for item in render_scene(5, index).objects:
            left, top, right, bottom = item.box_xyxy
            if item.shape == "circle":
                hidden += item.mask_hw.sum() < 0.72 * (right - left) * (bottom - top)
    assert hidden > 0


def test_objects_show_their_colour(scenes: list[Scene]) -> None:
    checked = 0
    for scene in scenes:
        for item in scene.objects:
            if item.surface == "plain" and item.colour in ("red", "green", "blue"):
                mean = scene.image_hwc()[item.mask_hw].mean(axis=0)
                assert int(mean.argmax()) == ("red", "green", "blue").index(item.colour)
                checked += 1
    assert checked > 5


def test_box_is_tight(scenes: list[Scene]) -> None:
    item = scenes[0].objects[0]
    left, top, right, bottom = item.box_xyxy
    inside = item.mask_hw[top:bottom, left:right]
    assert inside.sum() == item.mask_hw.sum()
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()


@pytest.mark.parametrize("shape", SHAPE_NAMES)
def test_shapes_are_drawn_where_asked(shape: str) -> None:
    stamp = rasterise_shape(shape, (40.3, -7.6), 20.0, 0.7)
    rows, columns = np.nonzero(stamp.coverage >= 128)
    assert np.hypot(columns + stamp.left + 0.5 - 40.3, rows + stamp.top + 0.5 + 7.6).max() < 21.0
    assert len(rows) > 200
    center_row, center_column = round(-7.6) - stamp.top, round(40.3) - stamp.left
    assert (stamp.coverage[center_row, center_column] == 0) == (shape == "ring")


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(ValueError, match="'blob'"):
        rasterise_shape("blob", (5.0, 5.0), 3.0, 0.0)
