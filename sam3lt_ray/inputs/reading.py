"""Units of a shard, whatever its format."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.image_stream import SeenKeys, StreamedImage
from sam3lt_ray.inputs.loose_files import stream_loose_files
from sam3lt_ray.inputs.parquet import stream_parquet
from sam3lt_ray.inputs.unit_building import build_units
from sam3lt_ray.inputs.webdataset import stream_webdataset
from sam3lt_ray.records import ReadRange, Shard, Unit


def read_units(
    shard: Shard,
    ranges: Sequence[ReadRange],
    settings: InputSettings,
    storage: StorageSettings,
    seen_keys: SeenKeys | None = None,
) -> Iterator[Unit]:
    """Stream the wanted ranges of a shard as units, in order.

    The units depend only on the shard's content and the settings: reading from any unit's first image gives the same
    units, images and error rows as reading the whole shard. A shard without images is one unit of 0 images. Memory is
    bounded by a unit, one more image and some read buffers, whatever the shard's size.

    Args:
        shard: What to read; a file that has another size or version now is refused.
        ranges: Gaps to fill, each beginning at a unit's first image.
        settings: Format, columns and limits.
        storage: How S3 is reached.
        seen_keys: Called with a range's first index; gives the keys of all images of the shard before it, as committed.
            It lets reading begin at the range. None: what lies before the range is read too, to know its keys
            (except where keys cannot repeat: loose files, and Parquet rows named by their number).

    Yields:
        Units with their images. Unusable images are among them, with ``error_kind`` set.

    Raises:
        StorageError: The shard cannot be read, in spite of repeated attempts, or changed since it was listed.
    """
    for read_range in ranges:
        images = _stream(shard, read_range, settings, storage, seen_keys)
        try:
            yield from build_units(shard.name, images, read_range, settings)
        finally:
            images.close()  # ends threads and lets go of buffers also when the consumer stops early


def _stream(
    shard: Shard,
    read_range: ReadRange,
    settings: InputSettings,
    storage: StorageSettings,
    seen_keys: SeenKeys | None,
) -> Generator[StreamedImage, None, None]:
    if settings.format == "webdataset":
        return stream_webdataset(shard, read_range, settings, storage, seen_keys)
    if settings.format == "parquet":
        return stream_parquet(shard, read_range, settings, storage, seen_keys)
    return stream_loose_files(shard, read_range, settings, storage)
