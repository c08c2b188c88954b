from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sam3lt_ray.errors import InputError, StorageError
from sam3lt_ray.inputs import ranged_file
from sam3lt_ray.inputs.parquet import read_schema
from sam3lt_ray.inputs.parquet_columns import choose_columns
from sam3lt_ray.inputs.ranged_file import RangedFile
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import ReadRange, Shard
from tests.unit.inputs.shard_files import (
    LOCAL,
    assert_same_from_every_unit,
    count_reads,
    images_of,
    keys_before,
    make_shard,
    read_all,
    settings_for,
    write_parquet,
)

PARQUET = settings_for("parquet", images_per_unit=3)
HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_bytes_column_and_row_numbers(tmp_path: Path) -> None:
    shard = write_parquet(tmp_path, {"label": list(range(10)), "jpg": [bytes([row]) * 5 for row in range(10)]})
    units = read_all(shard, PARQUET)
    assert [(unit.range.first, unit.range.count, unit.range.is_last) for unit in units] == [
        (0, 3, False),
        (3, 3, False),
        (6, 3, False),
        (9, 1, True),
    ]
    assert [(image.index, image.key, image.data) for image in images_of(units)] == [
        (row, str(row), bytes([row]) * 5) for row in range(10)
    ]
    assert all(unit.resume_offset is None for unit in units)
    assert_same_from_every_unit(shard, PARQUET, units)


def test_hugging_face_structs(tmp_path: Path) -> None:
    rows = [{"bytes": b"1", "path": "a.png"}, {"bytes": b"2", "path": None}, None, {"bytes": None, "path": "b.png"}]
    shard = write_parquet(tmp_path, {"image": pa.array(rows, HF_IMAGE), "mask": pa.array(rows, HF_IMAGE)})
    images = images_of(read_all(shard, PARQUET))
    assert [(image.key, image.data, image.error_kind) for image in images] == [
        ("a.png", b"1", None),
        ("1", b"2", None),
        ("2", b"", "empty"),
        ("b.png", b"", "empty"),
    ]


@pytest.mark.parametrize("keys", [["x", "y", "x", None, "3"], [7, 8, 7, None, 3]])
def test_key_column_with_repetitions(tmp_path: Path, keys: list[Any]) -> None:
    shard = write_parquet(tmp_path, {"content": pa.array([b"1"] * 5, pa.large_binary()), "id": keys}, 2)
    named = settings_for("parquet", key_column="id", images_per_unit=1)
    units = read_all(shard, named)
    assert [(image.key, image.error_kind) for image in images_of(units)] == [
        (str(keys[0]), None),
        (str(keys[1]), None),
        (str(keys[2]), "duplicate_key"),
        ("3", None),
        ("3", "duplicate_key"),
    ]
    assert_same_from_every_unit(shard, named, units)


def test_keys_that_are_no_utf8(tmp_path: Path) -> None:
    odd = pa.array([b"a.png", b"\xff.png", b"\xff.png", b"b.png"]).view(pa.string())
    named = settings_for("parquet", key_column="key", images_per_unit=1)
    contents = pa.array([b"1", b"2", b"3", b"4"])
    expected = [("a.png", None), ("\\xff.png", None), ("\\xff.png", "duplicate_key"), ("b.png", None)]
    shard = write_parquet(tmp_path, {"image": contents, "key": odd})
    in_struct = pa.StructArray.from_arrays([contents, odd], ["bytes", "path"])
    hugging_face = write_parquet(tmp_path, {"image": in_struct}, name="hf.parquet")
    in_dictionary = write_parquet(tmp_path, {"image": contents, "key": odd.dictionary_encode()}, name="d.parquet")
    for read, how in ((shard, named), (hugging_face, PARQUET), (in_dictionary, named)):
        units = read_all(read, how)
        assert [(image.key, image.error_kind) for image in images_of(units)] == expected
        assert_same_from_every_unit(read, how, units)


def test_keys_that_are_too_long_are_shortened(tmp_path: Path) -> None:
    keys = ["é" * 2_048, "é" * 2_048 + "x", "é" * 2_049, "é" * 2_048]
    shard = write_parquet(tmp_path, {"image": [b"1", b"2", b"3", b"4"], "key": keys})
    named = settings_for("parquet", key_column="key", images_per_unit=1)
    units = read_all(shard, named)
    images = images_of(units)
    assert [(image.key, image.error_kind) for image in images] == [
        ("é" * 2_048, None),
        ("é" * 100 + "... (row 1)", "unsupported"),
        ("é" * 100 + "... (row 2)", "unsupported"),
        ("é" * 2_048, "duplicate_key"),
    ]
    assert "more than 4,096 bytes" in str(images[1].error_message)
    assert len(str(images[3].error_message)) < 200
    assert_same_from_every_unit(shard, named, units)


def test_empty_and_too_large_rows(tmp_path: Path) -> None:
    shard = write_parquet(tmp_path, {"image": [b"", None, bytes(2**20 + 1), b"x"]})
    images = images_of(read_all(shard, settings_for("parquet", max_image_mb=1)))
    assert [image.error_kind for image in images] == ["empty", "empty", "too_large", None]
    assert "null" in str(images[1].error_message)


def test_file_without_rows(tmp_path: Path) -> None:
    (unit,) = read_all(write_parquet(tmp_path, {"image": pa.array([], pa.binary())}), PARQUET)
    assert (unit.range.count, unit.range.is_last) == (0, True)


def _damage_row_group(folder: Path, group: int) -> Shard:
    content = bytearray(Path(write_parquet(folder, _incompressible(12), 4).uri).read_bytes())
    column = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(group).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    for position in range(start, start + column.total_compressed_size):
        content[position] ^= 0x5A
    return make_shard(folder, bytes(content), "damaged.parquet")


def _incompressible(rows: int) -> dict[str, Any]:
    return {"image": [bytes([row, 255 - row]) * 50 for row in range(rows)], "name": [f"n{row}" for row in range(rows)]}


def test_a_bad_row_group_loses_its_rows_only(tmp_path: Path) -> None:
    shard = _damage_row_group(tmp_path, 1)
    named = settings_for("parquet", key_column="name", images_per_unit=3)
    units = read_all(shard, named)
    images = images_of(units)
    assert [image.error_kind for image in images] == [None] * 4 + ["corrupt"] * 4 + [None] * 4
    assert [image.index for image in images] == list(range(12))
    assert "row group 1 cannot be read" in str(images[5].error_message)
    assert all(unit.shard_error is None for unit in units)
    assert_same_from_every_unit(shard, named, units)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all" * 10])
def test_unreadable_footer(tmp_path: Path, content: bytes) -> None:
    (unit,) = read_all(make_shard(tmp_path, content, "x.parquet"), PARQUET)
    assert [image.error_kind for image in unit.images] == ["truncated_shard"]
    assert unit.shard_error is not None
    assert "footer" in unit.shard_error


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [1, 2]}, "has no column that holds images"),
        ({"left": [b"1"], "right": [b"2"]}, "Several columns"),
        ({"image": [b"1"], "other": ["x"]}, "The column 'key' (input.key_column)"),
    ],
)
def test_a_file_without_the_columns_is_one_row(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    (unit,) = read_all(write_parquet(tmp_path, columns), settings_for("parquet", key_column="key"))
    assert [image.error_kind for image in unit.images] == ["truncated_shard"]
    assert message in str(unit.images[0].error_message)
    assert unit.shard_error == unit.images[0].error_message


def test_a_column_name_that_is_no_utf8_is_one_row(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path, {"image": [b"1"], "colname": [1]})
    content = (
        Path(whole.uri)
        .read_bytes()
        .replace(b"colname", b"\xff\xfelname")
        .replace(b"ARROW:schema", b"ARROW:nothing"[:12])
    )
    shard = make_shard(tmp_path, content, "odd.parquet")
    assert [image.error_kind for image in images_of(read_all(shard, PARQUET))] == ["truncated_shard"]
    assert read_schema(shard.uri, LOCAL) is None


def test_cut_off_file(tmp_path: Path) -> None:
    content = Path(write_parquet(tmp_path, {"image": [b"x" * 100] * 9}).uri).read_bytes()
    (unit,) = read_all(make_shard(tmp_path, content[:-20], "x.parquet"), PARQUET)
    assert [image.error_kind for image in unit.images] == ["truncated_shard"]


def test_storage_failure_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_parquet(tmp_path, _incompressible(12))
    monkeypatch.setattr(ranged_file, "RETRY_DELAYS_S", ())
    original = RangedFile.read_at

    def fail_after_footer(self: RangedFile, offset: int, num_bytes: int) -> bytes:
        if offset < 200:
            raise StorageError("the cable is out")
        return original(self, offset, num_bytes)

    monkeypatch.setattr(RangedFile, "read_at", fail_after_footer)
    with pytest.raises(StorageError, match="the cable is out"):
        read_all(shard, PARQUET)
    monkeypatch.setattr(RangedFile, "read_at", _fail)
    for request in (lambda: read_all(shard, PARQUET), lambda: read_schema(shard.uri, LOCAL)):
        with pytest.raises(StorageError, match="no cable"):
            request()


def _fail(self: RangedFile, offset: int, num_bytes: int) -> bytes:
    raise StorageError("no cable")


def test_skipped_row_groups_and_other_columns_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"image": [bytes([row]) * 20_000 for row in range(12)], "other": [bytes(50_000)] * 12}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=4, compression="none", use_dictionary=False)
    shard = make_shard(tmp_path, buffer.getvalue(), "x.parquet")
    named = settings_for("parquet", image_column="image", images_per_unit=4)
    units = read_all(shard, named)
    lengths = count_reads(monkeypatch)
    assert list(read_units(shard, [ReadRange(8)], named, LOCAL)) == units[2:]
    assert 80_000 < sum(lengths) < 200_000


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.one_of(st.none(), st.binary(max_size=50)), st.sampled_from([None, "a", "b", "c"]))),
    row_group_size=st.integers(1, 5),
    images_per_unit=st.integers(1, 4),
)
def test_any_unit_start_equals_the_whole(
    tmp_path: Path, rows: list[tuple[bytes | None, str | None]], row_group_size: int, images_per_unit: int
) -> None:
    columns = {
        "image": pa.array([content for content, _ in rows], pa.binary()),
        "key": pa.array([key for _, key in rows], pa.string()),
    }
    shard = write_parquet(tmp_path, columns, row_group_size)
    named = settings_for("parquet", key_column="key", images_per_unit=images_per_unit)
    units = read_all(shard, named)
    assert [image.index for image in images_of(units)] == list(range(len(rows)))
    assert [image.data for image in images_of(units) if image.error_kind is None] == [
        content for (content, _), image in zip(rows, images_of(units), strict=True) if image.error_kind is None
    ]
    assert_same_from_every_unit(shard, named, units)
    later = units[len(units) // 2]
    assert next(read_units(shard, [ReadRange(later.range.first)], named, LOCAL, keys_before(units))) == later


# --- choosing columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({"anything": pa.binary()}, "anything"),
        ({"label": pa.int64(), "img": pa.large_binary()}, "img"),
        ({"image": HF_IMAGE, "annotation": HF_IMAGE}, "image"),
        ({"mask": pa.binary(), "Image": pa.binary(), "bytes": pa.binary()}, "Image"),
        ({"mask": pa.binary(), "content": pa.binary()}, "content"),
    ],
)
def test_found_image_columns(fields: dict[str, pa.DataType], chosen: str) -> None:
    assert choose_columns(pa.schema(fields), PARQUET, "x.parquet").image == chosen


@pytest.mark.parametrize(
    ("fields", "changes", "message"),
    [
        ({"jpg": pa.binary(), "png": pa.binary()}, {}, r"Several columns .* jpg \(binary\), png \(binary\)"),
        ({"left": pa.binary(), "right": pa.binary()}, {}, "input.image_column"),
        ({"uri": pa.string(), "n": pa.int32()}, {}, r"no column that holds images.*uri \(string\).*manifest"),
        ({}, {}, "Columns: none"),
        ({"image": pa.binary()}, {"image_column": "img"}, r"'img' .* does not exist\. Columns: image"),
        ({"image": pa.string()}, {"image_column": "image"}, r"'image' .* is not of bytes"),
        ({"image": pa.binary()}, {"key_column": "id"}, r"'id' \(input\.key_column\) .* does not exist"),
        ({"image": pa.binary(), "id": pa.list_(pa.int8())}, {"key_column": "id"}, "expected text or numbers"),
        ({"s": pa.struct([("bytes", pa.string())])}, {}, "no column that holds images"),
    ],
)
def test_refused_columns(fields: dict[str, pa.DataType], changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_columns(pa.schema(fields), settings_for("parquet", **changes), "x.parquet")
