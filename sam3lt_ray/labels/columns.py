"""From the columns of a unit's table to values; column by column, which is several times faster than row by row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sam3lt_ray.labels.schema import META_LABELS
from sam3lt_ray.records import Instance, Rle


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """One image of a run with everything that was found in it.

    Attributes:
        image_id: Stable id.
        shard: Name of its shard.
        index: Position in the shard.
        key: Name inside the shard, as read.
        width: Pixels after EXIF orientation; None when the image could not be used.
        height: Pixels after EXIF orientation; None when the image could not be used.
        status: "ok" or "error".
        error_kind: Why there are no labels; None when status is "ok".
        error_message: The sentence that goes with it.
        presence: Probability that the label is in the image, by label id, for every label that was asked.
        saturated: Ids of labels of which there may be more than was found.
        instances: Everything with a score above the floor, best first within a label.
        side_files: Other members of the shard with this key.
    """

    image_id: str
    shard: str
    index: int
    key: str
    width: int | None
    height: int | None
    status: str
    error_kind: str | None
    error_message: str | None
    presence: dict[int, float]
    saturated: tuple[int, ...]
    instances: tuple[Instance, ...]
    side_files: tuple[str, ...] = ()


def images_of_table(table: pa.Table) -> Iterator[LabeledImage]:
    """The rows of a unit's table (LABEL_SCHEMA with the file's metadata) in their order."""
    plain = ("image_id", "shard", "index", "key", "width", "height", "status", "error_kind", "error_message")
    label_ids = presence_label_ids(table.schema)
    presence = (
        dict(zip(label_ids, values, strict=True)) if values else {}
        for values in _split(*_list_values(table, "presence"))
    )
    columns: list[Iterable[Any]] = [
        *(table.column(name).to_pylist() for name in plain),
        presence,
        map(tuple, _split(*_list_values(table, "saturated"))),
        map(tuple, _instances_by_row(table)),
        (tuple(names or ()) for names in table.column("side_files").to_pylist()),
    ]
    for values in zip(*columns, strict=True):
        yield LabeledImage(*values)


def presence_label_ids(schema: pa.Schema) -> tuple[int, ...]:
    """Ids of the labels that ``presence`` is aligned to, from the file's metadata."""
    labels = json.loads((schema.metadata or {})[META_LABELS])
    return tuple(int(label["id"]) for label in labels)


def flat_list(table: pa.Table, name: str) -> tuple[pa.Array[Any], npt.NDArray[np.int64]]:
    """A list column's values in one array and the offsets of the rows in it, int64[rows + 1]; a null row is empty."""
    lists = cast("pa.ListArray[Any]", table.column(name).combine_chunks())
    # Not flatten(): that leaves out what null rows happen to span, and the offsets would point elsewhere.
    return lists.values, np.asarray(lists.offsets, dtype=np.int64)


def struct_field(structs: pa.Array[Any], name: str) -> pa.Array[Any]:
    """One field of an array of structs."""
    return cast(pa.StructArray, structs).field(name)


def _list_values(table: pa.Table, name: str) -> tuple[list[Any], npt.NDArray[np.int64]]:
    values, offsets = flat_list(table, name)
    return values.to_numpy(zero_copy_only=False).astype(_PYTHON_KIND[name]).tolist(), offsets


_PYTHON_KIND = {"presence": np.float64, "saturated": np.int64}


def _split(values: Sequence[Any], offsets: npt.NDArray[np.int64]) -> Iterator[Sequence[Any]]:
    for start, end in pairwise(offsets.tolist()):
        yield values[start:end]


def _instances_by_row(table: pa.Table) -> Iterator[Sequence[Instance]]:
    structs, offsets = flat_list(table, "instances")
    masks = struct_field(structs, "segmentation")
    boxes_xyxy = _fixed_lists(struct_field(structs, "box_xyxy"), 4).astype(np.float64)
    sizes_hw = _fixed_lists(struct_field(masks, "size"), 2)
    instances = [
        Instance(label_id, prompt_index, score, (x1, y1, x2, y2), area, Rle((height, width), counts))
        for label_id, prompt_index, score, (x1, y1, x2, y2), area, (height, width), counts in zip(
            struct_field(structs, "label_id").to_pylist(),
            struct_field(structs, "prompt_index").to_pylist(),
            struct_field(structs, "score").to_pylist(),
            boxes_xyxy.tolist(),
            struct_field(structs, "area").to_pylist(),
            sizes_hw.tolist(),
            struct_field(masks, "counts").to_pylist(),
            strict=True,
        )
    ]
    return _split(instances, offsets)


def _fixed_lists(lists: pa.Array[Any], length: int) -> npt.NDArray[Any]:
    values = cast("pa.FixedSizeListArray[Any]", lists).values
    return values.to_numpy(zero_copy_only=False).reshape(-1, length)
