"""A folder or prefix full of image files, in fixed groups."""

from __future__ import annotations

from collections.abc import Sequence

from sam3lt_ray.config.schema import InputSettings
from sam3lt_ray.images.signatures import IMAGE_EXTENSIONS, UNDECODED_EXTENSIONS
from sam3lt_ray.inputs.file_listing import FileListing, ListedFile
from sam3lt_ray.inputs.groups import GroupCandidate, form_groups
from sam3lt_ray.records import Shard


def is_image(file: ListedFile) -> bool:
    """Whether a file of a folder is among its images, by its extension; what cannot be decoded becomes an error row."""
    return file.extension in IMAGE_EXTENSIONS or file.extension in UNDECODED_EXTENSIONS


def group_folder(listing: FileListing, settings: InputSettings, known: Sequence[Shard]) -> list[Shard]:
    """Groups of the image files of a listing, in the order of their names; the key is the path below the folder."""
    images = (
        GroupCandidate(file.name, file.uri, file.size_bytes, file.version) for file in listing.files if is_image(file)
    )
    return form_groups(images, known, settings.images_per_group, listing.uri)
