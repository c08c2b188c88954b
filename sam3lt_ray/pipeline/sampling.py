"""A few images of the input: how many a byte of tar holds, and something to calibrate with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import EncodedImage, ReadRange, Shard, Unit

_MAX_SHARDS: Final = 8
# What is read of the beginning of each tar, at most.
_TAR_IMAGES: Final = 256
_MAX_MB: Final = 32


@dataclass(frozen=True, slots=True)
class InputSample:
    """What was read.

    Attributes:
        shards: From how many shards.
        images_read: How many images were looked at.
        images_per_byte: Of tars; None for other formats, which are counted.
        read_whole: Images of those shards that ended within what was read, by name.
        images: Some of them, from all these shards.
    """

    shards: int
    images_read: int
    images_per_byte: float | None
    read_whole: Mapping[str, int]
    images: tuple[EncodedImage, ...]


def sample_input(
    shards: Sequence[Shard], settings: InputSettings, storage: StorageSettings, num_images: int
) -> InputSample:
    """Read the beginnings of up to eight shards, spread evenly over all of them.

    Args:
        shards: All there are.
        settings: The input.
        storage: How S3 is reached.
        num_images: Images that are wanted; there may be fewer.

    Raises:
        StorageError: A shard cannot be read.
    """
    count = min(len(shards), _MAX_SHARDS)
    chosen = [shards[(2 * number + 1) * len(shards) // (2 * count)] for number in range(count)]
    is_tar = settings.format == "webdataset"
    share = -(-num_images // count) if count else 0
    per_shard = max(share, _TAR_IMAGES) if is_tar else share
    images: list[EncodedImage] = []
    read_whole: dict[str, int] = {}
    images_read = num_bytes = 0
    for number, shard in enumerate(chosen) if per_shard else ():
        unit = _read_beginning(shard, per_shard, settings, storage)
        images_read += len(unit.images)
        num_bytes += (unit.resume_offset if unit.resume_offset is not None else shard.size_bytes) or 0
        if unit.range.is_last:
            read_whole[shard.name] = len(unit.images)
        # Shards that hold fewer than their share leave the rest to those behind them.
        wanted = -(-(num_images - len(images)) // (count - number))
        images += _spread(unit.images, wanted)
    per_byte = images_read / num_bytes if is_tar and num_bytes else None
    return InputSample(count, images_read, per_byte, read_whole, tuple(images))


def _read_beginning(shard: Shard, num_images: int, settings: InputSettings, storage: StorageSettings) -> Unit:
    as_one = settings.model_copy(update={"images_per_unit": num_images, "max_unit_mb": _MAX_MB})
    units = read_units(shard, [ReadRange()], as_one, storage)
    try:
        return next(iter(units))
    finally:
        units.close()  # type: ignore[attr-defined]  # it is a generator


def _spread(images: Sequence[EncodedImage], count: int) -> list[EncodedImage]:
    """At most ``count`` of them, evenly."""
    if len(images) <= count:
        return list(images)
    return [images[number * len(images) // count] for number in range(count)]
