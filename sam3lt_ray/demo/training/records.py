"""Training records: scenes prepared as the model sees them, in arrays of fixed size."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam3lt_ray.demo.arrays import ByteArray, FloatArray
from sam3lt_ray.demo.prompts import object_class
from sam3lt_ray.demo.scenes import MAX_OBJECTS, Scene
from sam3lt_ray.demo.training.architecture import IMAGE_SIZE, MASK_SIZE


@dataclass(frozen=True, slots=True)
class RecordArrays:
    """Some number n of records.

    Attributes:
        images: RGB uint8 [n, IMAGE_SIZE, IMAGE_SIZE, 3].
        coverage: How much of each mask cell an object's visible part covers, uint8
            [n, MAX_OBJECTS, MASK_SIZE, MASK_SIZE], 255 is all of it.
        boxes_cxcywh: Boxes around the visible parts as shares of the image, float32 [n, MAX_OBJECTS, 4].
        classes: `prompts.object_class` of each object, -1 where there is none, int64 [n, MAX_OBJECTS].
    """

    images: ByteArray
    coverage: ByteArray
    boxes_cxcywh: FloatArray
    classes: npt.NDArray[np.int64]

    @classmethod
    def shared(cls, num_records: int) -> RecordArrays:
        """Zeroed arrays in anonymous shared memory: processes forked afterwards see the same bytes."""
        arrays = {}
        for name, (dtype, shape) in RECORD_LAYOUT.items():
            size = num_records * int(np.prod(shape)) * np.dtype(dtype).itemsize
            arrays[name] = np.frombuffer(mmap.mmap(-1, size), dtype=dtype).reshape(num_records, *shape)
        return cls(**arrays)

    def put(self, position: int, scene: Scene) -> None:
        """Prepares a scene and stores it as record number `position`."""
        self.images[position] = prepare_image(scene.image_hwc())
        self.classes[position] = -1
        for number, item in enumerate(scene.objects):
            left, top, right, bottom = item.box_xyxy
            self.boxes_cxcywh[position, number] = (
                (left + right) / 2 / scene.width,
                (top + bottom) / 2 / scene.height,
                (right - left) / scene.width,
                (bottom - top) / scene.height,
            )
            mask = Image.fromarray(item.mask_hw.astype(np.uint8) * 255)
            self.coverage[position, number] = np.asarray(mask.resize((MASK_SIZE, MASK_SIZE), Image.Resampling.BOX))
            self.classes[position, number] = object_class(item.colour, item.shape)

    def copy_from(self, other: RecordArrays) -> None:
        """Overwrites every record with another set's of the same length."""
        for field in fields(self):
            np.copyto(getattr(self, field.name), getattr(other, field.name))


RECORD_LAYOUT: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
    "images": (np.uint8, (IMAGE_SIZE, IMAGE_SIZE, 3)),
    "coverage": (np.uint8, (MAX_OBJECTS, MASK_SIZE, MASK_SIZE)),
    "boxes_cxcywh": (np.float32, (MAX_OBJECTS, 4)),
    "classes": (np.int64, (MAX_OBJECTS,)),
}


def prepare_image(image_hwc: ByteArray) -> ByteArray:
    """Squashes an RGB image to the model's square as the product does: Pillow, bilinear, antialiased."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(Image.fromarray(image_hwc).resize(size, Image.Resampling.BILINEAR))
