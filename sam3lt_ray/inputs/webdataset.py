"""Images of a WebDataset shard: a tar whose neighbouring members with one key form a sample.

The key is the path up to the first dot of its last part (WebDataset's rule); what follows is the extension.

* A sample's image is the member whose extension is an image format's (in either case) or, with ``input.image_column``,
  is exactly that. "x.jpg" goes before "x.seg.png"; two of the same rank are an error row that asks for the setting.
  Where there is none of a format that is decoded, the first one of a known other format (x.heic, x.pdf) is the image,
  for an error row; it takes its own name only, not the key from a later image.
* The image's key is its member name with the extension ("train/000012.jpg"); every other file of the sample is a side
  file, whose name is kept and whose content is passed over. Samples without an image are no images and are not counted.
* A key that comes again is an error row, whatever its extension is the second time.
* Names that begin with a dot, links, devices and directories are passed over.
* Nothing is ever unpacked to disk. Of a sample's side files the first 1,000 are named, or the first 128 KB of names.
* An image whose name is too long is an error row with a shortened name; side files with such names are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import ImageErrorKind
from sam3lt_ray.images.signatures import IMAGE_EXTENSIONS, UNDECODED_EXTENSIONS, why_not_decoded
from sam3lt_ray.inputs.file_listing import file_extension
from sam3lt_ray.inputs.forward_reader import ForwardReader
from sam3lt_ray.inputs.image_stream import (
    BYTES_PER_MB,
    EMPTY_MESSAGE,
    END_OF_SHARD_KEY,
    KeyMemory,
    SeenKeys,
    StreamedImage,
    too_large_message,
)
from sam3lt_ray.inputs.keys import is_too_long, long_key_message, shown
from sam3lt_ray.inputs.ranged_file import RangedFile
from sam3lt_ray.inputs.tar_reader import TarDamageError, TarMember, TarReader
from sam3lt_ray.records import EncodedImage, ReadRange, Shard
from sam3lt_ray.storage.filesystem import is_s3

_MAX_SIDE_FILES: Final = 1_000  # of one sample; an archive may have millions of members with one key
_MAX_SIDE_NAME_CHARACTERS: Final = 128 * 2**10  # of one sample, all names together
_UNDECODED_RANK: Final = 1
_SAMPLE_NAME: Final = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]*)", re.DOTALL)


def split_member_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member's name; None for names that belong to no sample."""
    match = _SAMPLE_NAME.fullmatch(name)
    return (match["key"], match["extension"].lower()) if match else None


def stream_webdataset(
    shard: Shard,
    read_range: ReadRange,
    settings: InputSettings,
    storage: StorageSettings,
    seen_keys: SeenKeys | None = None,
) -> Generator[StreamedImage, None, None]:
    """Images of a tar from ``read_range.first`` to the shard's end, reading nothing that is not needed for them.

    Without ``seen_keys`` the tar is read from its beginning, because a repeated key may repeat any earlier one; with it
    reading begins at ``read_range.offset``. Both give the same images.

    A broken place in a tar is one image of kind ``truncated_shard``, behind which it goes on; a tar that is cut off, or
    in which nothing more can be found, ends with one.

    Raises:
        StorageError: The shard cannot be read, or changed since it was listed.
    """
    file = RangedFile(shard.uri, storage, expected=shard)
    offset, index = 0, 0
    memory = KeyMemory()
    if read_range.offset is not None and seen_keys is not None:
        offset, index = read_range.offset, read_range.first
        for name in seen_keys(read_range.first):
            parts = split_member_name(name)
            if parts is not None:
                key, extension = parts
                memory.add(name if _image_rank(extension, settings) == _UNDECODED_RANK else key)
    with ForwardReader(file, offset, prefetch=is_s3(shard.uri)) as source:
        reader = _SampleReader(TarReader(source), settings, memory, index, read_range.first)
        yield from reader.images()


class _ImageCutOffError(TarDamageError):
    """The archive ends inside an image."""

    def __init__(self, image_name: str, message: str) -> None:
        super().__init__(message)
        self.image_name = image_name


@dataclass(slots=True)
class _Sample:
    """Neighbouring members with one key, as far as they were read."""

    key: str
    offset: int
    is_repeated: bool = False
    image_name: str | None = None
    image_rank: int = 0
    rival_name: str | None = None
    data: bytes = b""
    error: tuple[ImageErrorKind, str] | None = None
    names: dict[str, None] = field(default_factory=dict)  # in order, and found at once
    name_characters: int = 0

    def has(self, name: str) -> bool:
        """Whether a member of this name was seen."""
        return name in self.names or name == self.image_name


class _SampleReader:
    def __init__(
        self, tar: TarReader, settings: InputSettings, memory: KeyMemory, first_index: int, wanted_from: int
    ) -> None:
        self._tar = tar
        self._settings = settings
        self._memory = memory
        self._index = first_index
        self._wanted_from = wanted_from

    def images(self) -> Iterator[StreamedImage]:
        damage: TarDamageError | None = None
        try:
            for sample in self._samples():
                yield from self._finish(sample)
        except TarDamageError as error:
            damage = error
        if damage is not None:
            yield self._end_of_shard(damage)

    def _samples(self) -> Iterator[_Sample]:
        """Samples with their images read, and broken places; an archive's last sample comes before the error."""
        sample: _Sample | None = None
        while True:
            try:
                member = self._tar.next_member()
            except TarDamageError as damage:
                if sample is not None:
                    yield sample
                    sample = None
                passed_over = self._tar.skip_broken(damage)
                if passed_over is None:
                    raise
                yield _broken_place(damage, *passed_over)
                continue
            if member is None:
                break
            parts = split_member_name(member.name) if member.is_file else None
            if parts is None:
                continue
            key, extension = parts
            rank, has_long_name = _image_rank(extension, self._settings), is_too_long(member.name)
            if has_long_name and rank == 0:
                continue
            if has_long_name:
                member = _with_short_name(member, extension)
                key = member.name.partition(".")[0]
            # The same name again is not another file of the sample but the key over again.
            if sample is None or sample.key != key or sample.has(member.name):
                if sample is not None:
                    yield sample
                sample = _Sample(key, member.header_offset)
            # An image that is cut off ends here: its sample has no image, the end-of-shard row stands for it.
            self._add_member(sample, member, rank, has_long_name=has_long_name)
        if sample is not None:
            yield sample

    def _add_member(self, sample: _Sample, member: TarMember, rank: int, *, has_long_name: bool) -> None:
        if len(sample.names) <= _MAX_SIDE_FILES and sample.name_characters <= _MAX_SIDE_NAME_CHARACTERS:
            sample.names[member.name] = None
            sample.name_characters += len(member.name)
        if rank == 0 or rank < sample.image_rank:
            return
        if rank == sample.image_rank:
            if rank == _UNDECODED_RANK:
                return
            sample.rival_name = sample.rival_name or member.name
            return
        if sample.image_rank <= _UNDECODED_RANK < rank:
            sample.is_repeated = not self._memory.add(sample.key)
        sample.image_name, sample.image_rank, sample.rival_name = member.name, rank, None
        sample.data, sample.error = b"", None  # let go of a lower-ranked image before this one is read
        if has_long_name:
            sample.error = ("unsupported", long_key_message())
            return
        sample.data, sample.error = self._read_image(sample, member)

    def _read_image(self, sample: _Sample, member: TarMember) -> tuple[bytes, tuple[ImageErrorKind, str] | None]:
        if sample.is_repeated:
            return b"", _repeated(sample.key)
        if member.is_sparse:
            return b"", ("unsupported", "The file is stored in the tar as a sparse file, without its holes.")
        if member.size_bytes > self._settings.max_image_mb * BYTES_PER_MB:
            return b"", ("too_large", too_large_message(member.size_bytes, self._settings.max_image_mb))
        if member.size_bytes == 0:
            return b"", ("empty", EMPTY_MESSAGE)
        if self._index < self._wanted_from:
            return b"", None
        try:
            data = self._tar.read_payload(member)
        except TarDamageError as damage:
            raise _ImageCutOffError(member.name, str(damage)) from None
        sentence = why_not_decoded(file_extension(member.name), data)
        return (data, None) if sentence is None else (b"", ("unsupported", sentence))

    def _finish(self, sample: _Sample) -> Iterator[StreamedImage]:
        """The sample's image, if it has one and is among the wanted ones."""
        if sample.image_name is None:
            return
        if sample.image_rank == _UNDECODED_RANK and not self._memory.add(sample.image_name):
            sample.error = _repeated(sample.image_name)
        error, data = sample.error, sample.data
        sample.data = b""
        if sample.rival_name is not None and not sample.is_repeated:
            data = b""
            error = (
                "unsupported",
                f"The key {shown(sample.key)!r} has two images, {shown(sample.image_name)!r} and "
                f"{shown(sample.rival_name)!r}; say with input.image_column which extension is the image's.",
            )
        side_files = tuple(name for name in sample.names if name != sample.image_name)[:_MAX_SIDE_FILES]
        kind, message = error if error is not None else (None, None)
        image = EncodedImage(self._index, sample.image_name, data, side_files, kind, message)
        self._index += 1
        if image.index >= self._wanted_from:
            yield StreamedImage(image, sample.offset)

    def _end_of_shard(self, damage: TarDamageError) -> StreamedImage:
        """The one row that stands for everything a damaged shard should still hold."""
        key = damage.image_name if isinstance(damage, _ImageCutOffError) else END_OF_SHARD_KEY
        sentence = f"The shard is damaged: {damage}. The images before are complete; what should follow is missing."
        image = EncodedImage(self._index, key, error_kind="truncated_shard", error_message=sentence)
        return StreamedImage(image, None, shard_error=sentence)


def _image_rank(extension: str, settings: InputSettings) -> int:
    """0: no image; the highest rank of a sample is its image."""
    if settings.image_column is not None:
        return 3 if extension == settings.image_column.lower().lstrip(".") else 0
    last = extension.rpartition(".")[2]
    if last in IMAGE_EXTENSIONS:
        return 3 if last == extension else 2
    return _UNDECODED_RANK if last in UNDECODED_EXTENSIONS else 0


def _repeated(key: str) -> tuple[ImageErrorKind, str]:
    return "duplicate_key", f"The key {shown(key)!r} already stands earlier in this shard."


def _broken_place(damage: TarDamageError, first: int, end: int) -> _Sample:
    """What stands for a broken place: nobody knows which samples it held."""
    place = f"bytes {first} to {end}"
    sentence = f"The shard is damaged: {damage}. What stood in {place} is missing; behind it the shard goes on."
    return _Sample("", first, image_name=f"({place})", error=("truncated_shard", sentence))


def _with_short_name(member: TarMember, extension: str) -> TarMember:
    """The member under a name of one part and one extension, which no other member of this shard is given."""
    beginning = re.sub(r"[./]", "_", shown(member.name).removesuffix("..."))
    return replace(member, name=f"{beginning}_{member.header_offset}.{extension.rpartition('.')[2]}")
