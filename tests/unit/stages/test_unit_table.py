"""A unit survives its journey as an Arrow row."""

from __future__ import annotations

import pyarrow as pa

from sam3lt_ray.records import EncodedImage, Unit, UnitRange
from sam3lt_ray.stages.unit_table import table_to_units, unit_to_table

UNIT = Unit(
    "a/ü.tar",
    UnitRange(256, 2, is_last=True),
    (
        EncodedImage(256, "x.jpg", b"\0\xff" * 100, ("x.json", "x.txt")),
        EncodedImage(257, "y.jpg", error_kind="truncated_shard", error_message="ends here"),
    ),
    resume_offset=1 << 40,
    shard_error="no end blocks",
)
EMPTY = Unit("b.tar", UnitRange(0, 0, is_last=True), ())


def test_one_unit_is_one_row() -> None:
    assert unit_to_table(UNIT).num_rows == 1
    assert table_to_units(unit_to_table(UNIT)) == [UNIT]


def test_empty_units_and_joined_tables() -> None:
    joined = pa.concat_tables([unit_to_table(EMPTY), unit_to_table(UNIT)])
    assert table_to_units(joined) == [EMPTY, UNIT]
