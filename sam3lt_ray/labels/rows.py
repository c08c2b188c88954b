"""Label rows: from what the model said about a unit's images to the bytes of the unit's Parquet file, and counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sam3lt_ray.errors import ImageError
from sam3lt_ray.labels.causes import add_up_causes, cause_of
from sam3lt_ray.labels.schema import (
    LABEL_SCHEMA,
    META_COUNTS,
    META_FINGERPRINT,
    META_LABELS,
    META_MODEL,
    META_SCHEMA_VERSION,
    META_UNIT,
    SCHEMA_VERSION,
)
from sam3lt_ray.records import EncodedImage, ImageLabels, Instance, Unit, image_id
from sam3lt_ray.storage.parquet_files import encode_parquet


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a unit's file says about where its labels come from.

    Attributes:
        fingerprint: Hash of everything that changes labels.
        model: Checkpoint name, revision, type and the sha256 of each of its files.
        labels: (id, name) of the layer's labels in the order of ``presence``.
    """

    fingerprint: str
    model: Mapping[str, Any]
    labels: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class UnitCounts:
    """Numbers about one unit or a sum of units; kept in the file's footer, so that totals read no rows."""

    images: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    instances: Mapping[int, int] = field(default_factory=dict)
    causes: Mapping[str, int] = field(default_factory=dict)  # see labels/causes.py; empty in files of 0.1.0

    def __add__(self, other: UnitCounts) -> UnitCounts:
        return UnitCounts(
            self.images + other.images,
            dict(Counter(self.errors) + Counter(other.errors)),
            dict(Counter(self.instances) + Counter(other.instances)),
            add_up_causes((self.causes, other.causes)),
        )

    @property
    def num_errors(self) -> int:
        """Images that ended as error rows."""
        return sum(self.errors.values())

    @property
    def num_instances(self) -> int:
        """Stored instances of all labels."""
        return sum(self.instances.values())

    def to_json(self) -> dict[str, Any]:
        """A JSON object; label ids become text, as JSON wants it."""
        return {
            "images": self.images,
            "errors": dict(sorted(self.errors.items())),
            "instances": {str(label_id): count for label_id, count in sorted(self.instances.items())},
            "causes": dict(sorted(self.causes.items())),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> UnitCounts:
        """The inverse of :meth:`to_json`."""
        instances = {int(label_id): int(count) for label_id, count in value["instances"].items()}
        return cls(int(value["images"]), dict(value["errors"]), instances, dict(value.get("causes", {})))


def build_rows(unit: Unit, results: Sequence[ImageLabels | ImageError], *, loose_files: bool) -> list[dict[str, Any]]:
    """One row per image of a unit, in order.

    Args:
        unit: The images.
        results: For each image its labels, or why there are none; same length as ``unit.images``.
        loose_files: The shard is a group of loose files, whose name is no part of an image's identity.
    """
    if len(results) != len(unit.images):
        raise ValueError(f"unit has {len(unit.images)} images but {len(results)} results were given")
    shard_identity = "" if loose_files else unit.shard
    return [_row(unit.shard, shard_identity, image, result) for image, result in zip(unit.images, results, strict=True)]


def encode_unit_file(unit: Unit, rows: Sequence[dict[str, Any]], provenance: Provenance) -> bytes:
    """The unit's Parquet file; the same rows give the same bytes."""
    metadata = {
        META_SCHEMA_VERSION: SCHEMA_VERSION.encode(),
        META_FINGERPRINT: provenance.fingerprint.encode(),
        META_MODEL: _json(provenance.model),
        META_LABELS: _json([{"id": label_id, "name": name} for label_id, name in provenance.labels]),
        META_UNIT: _json(
            {
                "shard": unit.shard,
                "first": unit.range.first,
                "count": unit.range.count,
                "is_last": unit.range.is_last,
                "resume_offset": unit.resume_offset,
                "shard_error": unit.shard_error,
            }
        ),
        META_COUNTS: _json(count_rows(rows).to_json()),
    }
    table = pa.Table.from_pylist(list(rows), schema=LABEL_SCHEMA).replace_schema_metadata(metadata)
    return encode_parquet(table, write_statistics=False)


def count_rows(rows: Sequence[Mapping[str, Any]]) -> UnitCounts:
    """Images, errors by kind and instances by label of some rows."""
    errors = Counter(str(row["error_kind"]) for row in rows if row["status"] == "error")
    instances = Counter(int(instance["label_id"]) for row in rows for instance in row["instances"])
    causes = Counter(cause_of(row["error_kind"], row["error_message"]) for row in rows if row["status"] == "error")
    return UnitCounts(len(rows), dict(errors), dict(instances), add_up_causes((causes,)))


def _row(shard: str, shard_identity: str, image: EncodedImage, result: ImageLabels | ImageError) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": _image_id(shard_identity, image),
        "shard": shard,
        "index": image.index,
        "key": image.key,
        "side_files": list(image.side_files),
        "width": None,
        "height": None,
        "status": "error",
        "error_kind": None,
        "error_message": None,
        "presence": None,
        "saturated": None,
        "instances": [],
    }
    if isinstance(result, ImageError):
        return row | {"error_kind": result.kind, "error_message": result.message}
    return row | {
        "width": result.width,
        "height": result.height,
        "status": "ok",
        "presence": result.presence.astype(np.float16),
        "saturated": list(result.saturated),
        "instances": [_instance(instance) for instance in result.instances],
    }


def _image_id(shard_identity: str, image: EncodedImage) -> str:
    """A repeated key, and what stands for an unreadable rest, must not claim the id of the image that owns the key."""
    if image.error_kind in ("duplicate_key", "truncated_shard"):
        return image_id(shard_identity, f"{image.key}\0{image.error_kind}\0{image.index}")
    return image_id(shard_identity, image.key)


def _instance(instance: Instance) -> dict[str, Any]:
    return {
        "label_id": instance.label_id,
        "prompt_index": instance.prompt_index,
        "score": instance.score,
        "box_xyxy": list(instance.box_xyxy),
        "area": instance.area,
        "segmentation": {"size": list(instance.mask.size), "counts": instance.mask.counts},
    }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
