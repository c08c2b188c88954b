"""Cutting a stream of images into units. Where the cuts fall depends on the images and settings only."""

from __future__ import annotations

from collections.abc import Iterator

from sam3lt_ray.config.schema import InputSettings
from sam3lt_ray.errors import StorageError
from sam3lt_ray.inputs.image_stream import BYTES_PER_MB, StreamedImage
from sam3lt_ray.records import EncodedImage, ReadRange, Unit, UnitRange


def build_units(
    shard_name: str, images: Iterator[StreamedImage], read_range: ReadRange, settings: InputSettings
) -> Iterator[Unit]:
    """Units of at most ``images_per_unit`` images and ``max_unit_mb`` of image bytes, whichever is reached first.

    A unit is closed before the image that would not fit, so an image above ``max_unit_mb`` is alone, and a stream that
    begins at a unit's first image is cut as the whole one was. Always one image is read ahead: a unit knows whether the
    shard goes on behind it, and where.

    Args:
        shard_name: Name of the shard.
        images: From ``read_range.first`` on, without gaps; may go on beyond ``read_range.end``.
        read_range: What is wanted.
        settings: The limits.

    Raises:
        StorageError: The shard holds fewer images than ``read_range`` says: it is not the one that was read before.
    """
    max_unit_bytes = settings.max_unit_mb * BYTES_PER_MB
    first, unit_bytes = read_range.first, 0
    pending: list[EncodedImage] = []
    shard_error: str | None = None
    for item in images:
        image = item.image
        reached_end = image.index == read_range.end
        is_full = len(pending) == settings.images_per_unit or unit_bytes + len(image.data) > max_unit_bytes
        if pending and (reached_end or is_full):
            unit_images, pending, unit_bytes = tuple(pending), [], 0
            unit_range = UnitRange(first, len(unit_images), is_last=False)
            first = unit_range.end
            yield Unit(shard_name, unit_range, unit_images, resume_offset=item.offset)
            del unit_images
        if reached_end:
            return
        pending.append(image)
        unit_bytes += len(image.data)
        shard_error = item.shard_error
    _check_shard_reaches(shard_name, first + len(pending), read_range)
    yield Unit(shard_name, UnitRange(first, len(pending), is_last=True), tuple(pending), shard_error=shard_error)


def _check_shard_reaches(shard_name: str, num_images: int, read_range: ReadRange) -> None:
    is_short = read_range.end is not None and num_images < read_range.end
    if is_short or (read_range.first > 0 and num_images == read_range.first):
        wanted = read_range.end or read_range.first + 1
        raise StorageError(
            f"The shard {shard_name} has {num_images} images, but an earlier reading of it had at least {wanted}. "
            "Its content must have changed: put the old file back, or label into a new run directory."
        )
