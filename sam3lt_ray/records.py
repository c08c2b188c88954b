"""The values that travel between the parts: shards, units, images, instances. Plain frozen data, no behaviour."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from sam3lt_ray.errors import ImageErrorKind

# What a device does, in order: images encoded, prompts grounded in them, mask logits, run lengths.
EnginePart = Literal["vision", "prompts", "masks", "runs"]
# What a run does with an image.
Part = Literal["read", "decode", "vision", "prompts", "masks", "runs", "write"]


@dataclass(frozen=True, slots=True)
class Shard:
    """One input file, or a fixed group of loose files.

    Attributes:
        name: Identity inside the run: path relative to the input uri ("train/0001.tar"), or a group's name.
        uri: Full location of the file; for a group the uri of the folder or manifest.
        size_bytes: Size in bytes, the sum of the members for a group; None where the source does not tell.
        version: etag on S3, "mtime_ns-size" locally; None where the source does not tell. A change means other content.
        members: For a group of loose files: the files in order; empty otherwise.
        edition: "" for the content that the run first saw; 8 hex digits for a later one, so that labels of two contents
            never share a directory.
    """

    name: str
    uri: str
    size_bytes: int | None = None
    version: str | None = None
    members: tuple[LooseFile, ...] = ()
    edition: str = ""


@dataclass(frozen=True, slots=True)
class LooseFile:
    """One image file of a group.

    Attributes:
        key: Its stable name: relative path, or the manifest's uri.
        uri: Where it is.
        version: See :attr:`Shard.version`; also None in snapshots of 0.1.0.
        is_gone: The input no longer names it. It keeps its place in the group, and its labels.
    """

    key: str
    uri: str
    version: str | None = None
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as read: compressed bytes, or the reason why there are none.

    Attributes:
        index: Position in the shard, counting every image including unusable ones.
        key: Name inside the shard.
        data: File content; empty when ``error_kind`` is set.
        side_files: Names of the other members with the same key ("000012.json"), kept for joins.
        error_kind: Set when the image cannot be used already at reading.
        error_message: The sentence that goes with it.
    """

    index: int
    key: str
    data: bytes = b""
    side_files: tuple[str, ...] = ()
    error_kind: ImageErrorKind | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class UnitRange:
    """Which images of a shard a unit holds.

    Attributes:
        first: Index of the first image.
        count: Number of images (0 only for a shard without images).
        is_last: The shard ends with this unit.
    """

    first: int
    count: int
    is_last: bool

    @property
    def end(self) -> int:
        """Index after the last image."""
        return self.first + self.count


@dataclass(frozen=True, slots=True)
class Unit:
    """A range of a shard's images: read, labeled and committed together.

    Attributes:
        shard: Name of the shard.
        range: Which images.
        images: In order of index: all ``range.count`` of them, or those that are tried again.
        resume_offset: Byte offset in the shard where the next unit's first image begins; None where the
            format seeks by index.
        shard_error: Set on the last unit of a shard that ended wrongly (truncated): what was seen.
        path: Where its labels go in the run directory; "" as long as nobody has said so.
        read_s: Seconds it took to read.
        read_on: Address of the node that read it; "" where nobody asked.
    """

    shard: str
    range: UnitRange
    images: tuple[EncodedImage, ...]
    resume_offset: int | None = None
    shard_error: str | None = None
    path: str = ""
    read_s: float = 0.0
    read_on: str = ""

    @property
    def num_bytes(self) -> int:
        """Of all images, compressed as they are."""
        return sum(len(image.data) for image in self.images)

    @property
    def shard_bytes_per_image(self) -> float:
        """What an image takes of the shard, with all that lies around it, as far as the format lets one see."""
        if self.resume_offset is not None and self.range.end:
            return self.resume_offset / self.range.end
        return self.num_bytes / max(1, len(self.images))


@dataclass(frozen=True, slots=True)
class ReadRange:
    """A gap to be read: units from ``first`` until ``end`` (None: to the shard's end).

    Attributes:
        first: Index of the first missing image; always a unit's beginning.
        end: Index after the last missing image, a unit's end; None when unknown.
        offset: Byte offset at which image ``first`` begins, for formats that read by offset; None: from index.
    """

    first: int = 0
    end: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Rle:
    """COCO compressed run lengths, column-major (pycocotools' string form).

    Attributes:
        size: (height, width) in pixels.
        counts: The compressed counts as ASCII text.
    """

    size: tuple[int, int]
    counts: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One mask with its label and score.

    Attributes:
        label_id: Id of the label in the vocabulary.
        prompt_index: Which of the label's prompts found it (0-based).
        score: sigmoid(logit) * sigmoid(presence), in [0, 1].
        box_xyxy: Box predicted by the model in pixels of the image as displayed (EXIF applied), float32[4].
        area: Number of mask pixels.
        mask: The mask at the image's size.
    """

    label_id: int
    prompt_index: int
    score: float
    box_xyxy: tuple[float, float, float, float]
    area: int
    mask: Rle


@dataclass(frozen=True, slots=True)
class Detection:
    """One instance as the engine finds it: by prompt, before prompts are joined into labels.

    Attributes:
        prompt: Position of the prompt in the list the engine was given.
        score: sigmoid(logit) * sigmoid(presence), in [0, 1].
        box_xyxy: Pixels of the image.
        area: Number of mask pixels.
        mask: The mask at the image's size.
    """

    prompt: int
    score: float
    box_xyxy: tuple[float, float, float, float]
    area: int
    mask: Rle


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """What the engine found in one image.

    Attributes:
        presence: float32[num_prompts], sigmoid of the presence logit.
        saturated: bool[num_prompts]; nearly all decoder queries of the prompt carried an instance.
        detections: Scores above the floor, ordered by prompt, then best first.
    """

    presence: npt.NDArray[np.float32]
    saturated: npt.NDArray[np.bool_]
    detections: list[Detection]


@dataclass(frozen=True, slots=True)
class ImageLabels:
    """What the model says about one image.

    Attributes:
        width: Pixels, after EXIF orientation.
        height: Pixels, after EXIF orientation.
        presence: float32[num_labels]; the largest presence probability among the label's prompts.
        saturated: Ids of labels for which nearly all decoder queries carried an instance: there may be more.
        instances: Everything with a score above the floor, best first within a label.
    """

    width: int
    height: int
    presence: npt.NDArray[np.float32]
    saturated: tuple[int, ...] = ()
    instances: tuple[Instance, ...] = field(default=())


def image_id(shard_name: str, key: str) -> str:
    """Stable id of an image: 32 hex digits that depend on names only, not on order, machine or run.

    Args:
        shard_name: Path of the shard relative to the input uri; "" for loose files, whose groups carry no meaning.
        key: The image's key.
    """
    digest = hashlib.sha256(f"{shard_name}\0{key}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]
