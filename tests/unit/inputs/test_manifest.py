from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.errors import InputError
from sam3lt_ray.inputs.listing import list_shards
from sam3lt_ray.inputs.manifest import resolve_uri
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import ReadRange, Shard
from tests.unit.inputs.shard_files import LOCAL, images_of, settings_for


def list_manifest(path: Path, **changes: object) -> list[Shard]:
    return list_shards(settings_for("manifest", uri=str(path), **changes), LOCAL)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_rows_in_order(tmp_path: Path, kind: str) -> None:
    uris = ["z.jpg", "sub/a.jpg", str(tmp_path / "b,b.jpg"), "z.jpg"]
    path = tmp_path / "lists" / f"m.{kind}"
    path.parent.mkdir()
    if kind == "parquet":
        pq.write_table(pa.table({"n": [1, 2, 3, 4], "uri": uris}), path)
    elif kind == "csv":
        path.write_text("\ufeffn,uri\r\n" + "".join(f'{n},"{uri}"\r\n' for n, uri in enumerate(uris)))
    else:
        path.write_text("\n\n".join(f'{{"n": {n}, "uri": "{uri}"}}' for n, uri in enumerate(uris)) + "\n")
    groups = list_manifest(path, images_per_group=3)
    assert [[member.key for member in group.members] for group in groups] == [uris[:3], uris[3:]]
    assert [member.uri for member in groups[0].members] == [
        str(tmp_path / "lists/z.jpg"),
        str(tmp_path / "lists/sub/a.jpg"),
        str(tmp_path / "b,b.jpg"),
    ]
    (tmp_path / "lists/z.jpg").write_bytes(b"z")
    images = images_of(
        unit for group in groups for unit in read_units(group, [ReadRange()], settings_for("manifest"), LOCAL)
    )
    assert [image.error_kind for image in images] == [None, "unreadable", "unreadable", "duplicate_key"]


def test_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,where\n7,/a.jpg\n8,/a.jpg\n")
    (group,) = list_manifest(path, uri_column="where", key_column="id")
    assert [(member.key, member.uri) for member in group.members] == [("7", "/a.jpg"), ("8", "/a.jpg")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "url\n/a.jpg\n", r"no column 'uri' in .*m\.csv; it has: url\. Set input\.uri_column"),
        ("m.csv", "", "it has: none"),
        ("m.csv", "uri\n", "has no rows"),
        ("m.csv", "uri\n/a.jpg\n\n,\n", r"Row 2 of .*m\.csv has no uri"),
        ("m.csv", "uri\n/a.jpg\ngs://b/c.jpg\n", r"Row 2 of .*m\.csv: The scheme gs:// is not supported"),
        ("m.csv", b"uri\n\xff\n", r"not UTF-8 text \(byte 4\)"),
        ("m.jsonl", '{"uri": "/a.jpg"}\n{"uri": \n', r"Line 2 of .*m\.jsonl is not JSON"),
        ("m.jsonl", '["/a.jpg"]\n', "Line 1 of .* is no JSON object"),
        ("m.jsonl", '{"uri": "/a.jpg"}\n{"url": "/a.jpg"}\n', r"no column 'uri' in line 2 of .*it has: url"),
        ("m.jsonl", '{"uri": 5}\n', "Row 1 .* has no uri in column 'uri': 5"),
        ("m.jsonl", '{"uri": "/a\\ud800.jpg"}\n', "Row 1 of .* holds text that is no Unicode"),
        ("m.jsonl", "[" * 100_000, "Line 1 of .* is not JSON"),
        ("m.csv", "uri\n/a.jpg\n" + "b" * 5_000, "Row 2 of .* has a key of more than 4,096 bytes: 'bbb"),
        ("m.csv", "uri\n/a.jpg\n" + "b" * 140_000, r"Line \d of .* is no CSV that can be read \(field larger"),
        ("m.parquet", "no parquet", "is no readable Parquet file"),
        ("m.csv", "uri" + "b" * 140_000, r"Line 1 of .* is no CSV that can be read \(field larger"),
        (
            "m.csv",
            'uri\n/a.jpg\n"/b.jpg\n/c.jpg\n',
            r"Line \d of .* \(unexpected end of data\)\. Is a quote not closed\?",
        ),
        ("m.csv", 'uri\n/a.jpg\n"/b.jpg"x\n"/c.jpg"\n', r"Line 3 of .* is no CSV that can be read"),
        ("m.txt", "/a.jpg\n", r"is no manifest: expected \.parquet, \.csv or \.jsonl"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=message):
        list_manifest(path)


def test_a_parquet_manifest_with_text_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"uri": pa.array([b"/a.jpg", b"/\xff.jpg"]).view(pa.string())}), path)
    with pytest.raises(InputError, match=r"no readable Parquet file \(after row 0: UnicodeDecodeError"):
        list_manifest(path)


def test_row_without_a_key(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,uri\n,/a.jpg\n")
    with pytest.raises(InputError, match=r"Row 1 .* has no key in column 'id'"):
        list_manifest(path, key_column="id")


@pytest.mark.parametrize(
    ("written", "manifest", "resolved"),
    [
        ("a.jpg", "s3://bucket/lists/m.csv", "s3://bucket/lists/a.jpg"),
        ("../x/a.jpg", "s3://bucket/lists/m.csv", "s3://bucket/x/a.jpg"),
        ("a.jpg", "s3://bucket/m.csv", "s3://bucket/a.jpg"),
        ("s3://other/a.jpg", "/lists/m.csv", "s3://other/a.jpg"),
        ("/data/a.jpg", "s3://bucket/m.csv", "/data/a.jpg"),
        ("file:///data/a.jpg", "/lists/m.csv", "/data/a.jpg"),
        ("../a.jpg", "/lists/m.csv", "/a.jpg"),
    ],
)
def test_where_relative_uris_begin(written: str, manifest: str, resolved: str) -> None:
    assert resolve_uri(written, manifest) == resolved
