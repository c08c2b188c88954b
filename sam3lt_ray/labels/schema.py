"""The Arrow schema of a label row: the one place where the stored form of labels is written down.

A consumer may rely on names, types and meanings below. Anything that changes one of them raises ``SCHEMA_VERSION`` and
is noted in CHANGELOG.md.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

SCHEMA_VERSION: Final = "1"

# Keys of the file-level metadata. Values are UTF-8 text; structured ones are JSON.
META_SCHEMA_VERSION: Final = b"sam3lt.schema_version"
META_FINGERPRINT: Final = b"sam3lt.fingerprint"
META_MODEL: Final = b"sam3lt.model"  # JSON: checkpoint, revision, model_type, files {name: sha256}
META_LABELS: Final = b"sam3lt.labels"  # JSON: [{"id", "name"}] in the order of `presence`
META_UNIT: Final = b"sam3lt.unit"  # JSON: shard, first, count, is_last, resume_offset, shard_error
META_COUNTS: Final = b"sam3lt.counts"  # JSON: images, errors {kind: n}, instances {label_id: n}

RLE_TYPE: Final = pa.struct(
    [
        pa.field("size", pa.list_(pa.int32(), 2), nullable=False),  # [height, width] in pixels
        pa.field("counts", pa.string(), nullable=False),  # COCO compressed run lengths, column-major
    ]
)

INSTANCE_TYPE: Final = pa.struct(
    [
        pa.field("label_id", pa.int32(), nullable=False),
        pa.field("prompt_index", pa.int16(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("box_xyxy", pa.list_(pa.float32(), 4), nullable=False),  # pixels of the image as displayed
        pa.field("area", pa.int64(), nullable=False),  # mask pixels
        pa.field("segmentation", RLE_TYPE, nullable=False),
    ]
)

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("shard", pa.string(), nullable=False),
    pa.field("index", pa.int64(), nullable=False),  # position in the shard, unusable images included
    pa.field("key", pa.string(), nullable=False),
    pa.field("side_files", pa.list_(pa.string()), nullable=False),  # other members with this key, for joins
    pa.field("width", pa.int32()),  # pixels after EXIF orientation; null when status is "error"
    pa.field("height", pa.int32()),
    pa.field("status", pa.string(), nullable=False),  # "ok" | "error"
    pa.field("error_kind", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("presence", pa.list_(pa.float16())),  # aligned to the layer's labels (META_LABELS); null on error
    pa.field("saturated", pa.list_(pa.int32())),  # label ids whose decoder queries were nearly used up
    pa.field("instances", pa.list_(INSTANCE_TYPE), nullable=False),  # scores above the floor only
]

LABEL_SCHEMA: Final = pa.schema(_FIELDS)
