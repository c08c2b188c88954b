"""Held-out scenes, ready for evaluation: the prepared image, and the objects' masks as run lengths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkContext
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sam3lt_ray.demo.arrays import ByteArray
from sam3lt_ray.demo.scenes import render_scene
from sam3lt_ray.demo.training.records import prepare_image


@dataclass(frozen=True, slots=True)
class HeldOutObject:
    """An object's names and its mask as a pycocotools run-length dictionary."""

    colour: str
    shape: str
    segmentation: dict[str, Any]


@dataclass(frozen=True, slots=True)
class HeldOutScene:
    """A scene's size in pixels, its image as the model takes it (RGB uint8, square), and its objects."""

    height: int
    width: int
    image_hwc: ByteArray
    objects: tuple[HeldOutObject, ...]


def render_held_out(seed: int, num_scenes: int, num_workers: int) -> list[HeldOutScene]:
    """Renders the first scenes of a series that training does not use; call before the GPU is touched."""
    with ForkContext().Pool(num_workers) as pool:
        return pool.map(partial(_render, seed), range(num_scenes), chunksize=16)


def _render(seed: int, index: int) -> HeldOutScene:
    scene = render_scene(seed, index)
    objects = [
        HeldOutObject(item.colour, item.shape, coco_mask.encode(np.asfortranarray(item.mask_hw.astype(np.uint8))))
        for item in scene.objects
    ]
    return HeldOutScene(scene.height, scene.width, prepare_image(scene.image_hwc()), tuple(objects))
