"""From an input location to its shards, with every mistake in the request found before anything is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import InputError
from sam3lt_ray.images.signatures import IMAGE_EXTENSIONS
from sam3lt_ray.inputs.file_listing import COMPRESSED_TARS, FileListing, ListedFile, list_files
from sam3lt_ray.inputs.folder import group_folder, is_image
from sam3lt_ray.inputs.manifest import MANIFEST_EXTENSIONS, group_manifest
from sam3lt_ray.inputs.parquet import read_schema
from sam3lt_ray.inputs.parquet_columns import choose_columns
from sam3lt_ray.records import Shard

_SHARD_EXTENSION: Final = {"webdataset": "tar", "parquet": "parquet"}
_MAX_NAMED_EXTENSIONS: Final = 4
_MAX_SAMPLED_FILES: Final = 5


@dataclass(frozen=True, slots=True)
class ListedInput:
    """What is at an input location.

    Attributes:
        shards: The shards, sorted by name.
        passed_over: How many files of each extension are no part of the input, by their names.
    """

    shards: list[Shard]
    passed_over: Counter[str]


def list_shards(settings: InputSettings, storage: StorageSettings, known: Sequence[Shard] = ()) -> list[Shard]:
    """The shards of :func:`list_input`, which has arguments and errors."""
    return list_input(settings, storage, known).shards


def list_input(settings: InputSettings, storage: StorageSettings, known: Sequence[Shard] = ()) -> ListedInput:
    """Shards at ``settings.uri``, sorted by name.

    webdataset and parquet: one shard per file, at the uri or anywhere below it. folder and manifest: fixed groups of
    ``images_per_group`` images; groups that are ``known`` keep their members, new images form further groups.

    Args:
        settings: What to list.
        storage: How S3 is reached.
        known: Shards of an earlier listing.

    Raises:
        InputError: Nothing of that format is there, the location is wrong or denied, or (manifest, parquet) the columns
            are not there. The message says what was found instead.
        StorageError: The server answers with errors that may pass.
    """
    listing = list_files(settings.uri, storage)
    if settings.format == "manifest":
        shards = group_manifest(listing, settings, storage, [shard for shard in known if shard.members])
        return ListedInput(shards, Counter())
    if settings.format == "folder":
        groups = group_folder(listing, settings, [shard for shard in known if shard.members])
        if not any(file.extension in IMAGE_EXTENSIONS for file in listing.files):
            raise InputError(_nothing_found(listing, "image files that can be decoded", settings.format))
        return ListedInput(groups, Counter(file.extension for file in listing.files if not is_image(file)))
    files = _shard_files(listing, settings)
    if settings.format == "parquet":
        _check_columns(files, settings, storage)
    shards = [Shard(file.name, file.uri, file.size_bytes, file.version) for file in files]
    others = Counter(file.extension for file in listing.files if file.extension != files[0].extension)
    return ListedInput(shards, others)


def _shard_files(listing: FileListing, settings: InputSettings) -> list[ListedFile]:
    wanted = _SHARD_EXTENSION[settings.format]
    if settings.format == "webdataset":
        _refuse_compressed(listing)
    files = [file for file in listing.files if file.extension == wanted and not _is_bookkeeping(file, settings)]
    if not files:
        raise InputError(_nothing_found(listing, f".{wanted} files", settings.format))
    return files


def _is_bookkeeping(file: ListedFile, settings: InputSettings) -> bool:
    """Writers of Parquet datasets put "_metadata" and "_temporary/..." beside the data."""
    return settings.format == "parquet" and any(part.startswith("_") for part in file.name.split("/"))


def _refuse_compressed(listing: FileListing) -> None:
    compressed = [file for file in listing.files if file.extension in COMPRESSED_TARS]
    if compressed:
        others = f" and {len(compressed) - 1} more" if len(compressed) > 1 else ""
        raise InputError(
            "Compressed tars cannot be read from the middle, so a run could not continue in them: "
            f"{compressed[0].uri}{others}. Decompress them; the images inside are compressed already."
        )


def _check_columns(files: Sequence[ListedFile], settings: InputSettings, storage: StorageSettings) -> None:
    # Of one file, as a sample: thousands of footers would take minutes. The others are checked when they are read.
    for file in files[:_MAX_SAMPLED_FILES]:
        schema = read_schema(file.uri, storage)
        if schema is not None:
            choose_columns(schema, settings, file.uri)
            return


def _nothing_found(listing: FileListing, wanted: str, input_format: str) -> str:
    counts = Counter(file.extension for file in listing.files)
    suggestion = _suggest_format(counts, listing.is_file)
    advice = (
        f"Did you mean input.format: {suggestion}?" if suggestion not in (None, input_format) else "Check input.uri."
    )
    where = f"{listing.uri} is not one" if listing.is_file else f"there are none below {listing.uri}"
    return f"input.format: {input_format} needs {wanted}, but {where}; found {describe_files(counts)}. {advice}"


def describe_files(counts: Counter[str]) -> str:
    """Numbers of files by extension for people: "12 .txt files, 1 .mp4 file and 3 others"."""
    common = counts.most_common(_MAX_NAMED_EXTENSIONS)
    found = ", ".join(
        f"{count:,} .{extension} file{'s' if count > 1 else ''}"
        if extension
        else f"{count:,} file{'s' if count > 1 else ''} without an extension"
        for extension, count in common
    )
    rest = counts.total() - sum(count for _, count in common)
    return found + (f" and {rest:,} others" if rest else "")


def _suggest_format(counts: Counter[str], is_file: bool) -> str | None:
    for extension, _ in counts.most_common():
        if extension == "tar":
            return "webdataset"
        if extension == "parquet":
            return "parquet"
        if extension in IMAGE_EXTENSIONS:
            return "folder"
        if extension in MANIFEST_EXTENSIONS and is_file:
            return "manifest"
    return None
