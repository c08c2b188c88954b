"""Label rows keep everything, survive Parquet, and the same rows are the same bytes."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow.parquet as pq

from sam3lt_ray.errors import ImageError
from sam3lt_ray.labels.rows import Provenance, UnitCounts, build_rows, count_rows, encode_unit_file
from sam3lt_ray.labels.schema import LABEL_SCHEMA, META_COUNTS, META_LABELS, META_UNIT
from sam3lt_ray.masks.rle import decode_mask, encode_mask
from sam3lt_ray.records import EncodedImage, ImageLabels, Instance, Unit, UnitRange
from sam3lt_ray.storage.damage import is_damage
from sam3lt_ray.storage.parquet_files import read_whole

PROVENANCE = Provenance("f" * 64, {"checkpoint": "demo"}, ((3, "cat"), (7, "dog")))


def _mask() -> np.ndarray:
    mask = np.zeros((30, 47), bool)
    mask[2:20, 5:40] = True
    mask[8:12, 10:20] = False  # a hole
    mask[25:28, 1:4] = True  # a second part
    return mask


def _unit() -> tuple[Unit, list[ImageLabels | ImageError]]:
    images = (
        EncodedImage(5, "a.jpg", b"x", ("a.json",)),
        EncodedImage(6, "b.jpg", b"y"),
        EncodedImage(7, "a.jpg", error_kind="duplicate_key", error_message="twice"),
    )
    mask = _mask()
    instance = Instance(7, 1, 0.75, (5.0, 2.0, 40.0, 20.0), int(mask.sum()), encode_mask(mask))
    results: list[ImageLabels | ImageError] = [
        ImageLabels(47, 30, np.array([0.1, 0.9], np.float32), (7,), (instance,)),
        ImageError("truncated", "The file ends early."),
        ImageError("duplicate_key", "twice"),
    ]
    return Unit("s/a.tar", UnitRange(5, 3, is_last=True), images, 4096, None), results


def test_file_gives_back_what_was_said() -> None:
    unit, results = _unit()
    data = encode_unit_file(unit, build_rows(unit, results, loose_files=False), PROVENANCE)
    file = pq.ParquetFile(io.BytesIO(data))
    assert file.schema_arrow.remove_metadata().equals(LABEL_SCHEMA)
    rows = file.read().to_pylist()
    assert [row["status"] for row in rows] == ["ok", "error", "error"]
    assert [row["index"] for row in rows] == [5, 6, 7]
    assert rows[0]["side_files"] == ["a.json"]
    assert rows[1]["error_kind"] == "truncated"
    assert rows[1]["presence"] is None
    assert np.allclose(rows[0]["presence"], [0.1, 0.9], atol=1e-3)
    assert rows[0]["saturated"] == [7]
    instance = rows[0]["instances"][0]
    assert (instance["label_id"], instance["prompt_index"], instance["score"]) == (7, 1, 0.75)
    rle = encode_mask(_mask())
    assert instance["segmentation"] == {"size": [30, 47], "counts": rle.counts}
    assert np.array_equal(decode_mask(rle), _mask())


def test_footer_says_what_the_unit_is() -> None:
    unit, results = _unit()
    data = encode_unit_file(unit, build_rows(unit, results, loose_files=False), PROVENANCE)
    metadata = pq.read_metadata(io.BytesIO(data)).metadata
    assert json.loads(metadata[META_UNIT])["resume_offset"] == 4096
    assert json.loads(metadata[META_LABELS]) == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    counts = UnitCounts.from_json(json.loads(metadata[META_COUNTS]))
    causes = {"truncated: The file ends early.": 1, "duplicate_key: twice": 1}
    assert counts == UnitCounts(3, {"truncated": 1, "duplicate_key": 1}, {7: 1}, causes)


def test_same_rows_same_bytes() -> None:
    unit, results = _unit()
    rows = build_rows(unit, results, loose_files=False)
    assert encode_unit_file(unit, rows, PROVENANCE) == encode_unit_file(unit, rows, PROVENANCE)


def test_image_ids_are_unique_and_do_not_depend_on_the_group_for_loose_files() -> None:
    unit, results = _unit()
    ids = [row["image_id"] for row in build_rows(unit, results, loose_files=False)]
    assert len(set(ids)) == 3
    loose = [row["image_id"] for row in build_rows(unit, results, loose_files=True)]
    regrouped = Unit("group-000009", unit.range, unit.images)
    assert [row["image_id"] for row in build_rows(regrouped, results, loose_files=True)] == loose
    assert ids[0] != loose[0]


def test_empty_unit_is_a_file_with_the_schema() -> None:
    unit = Unit("s/a.tar", UnitRange(0, 0, is_last=True), ())
    table = pq.read_table(io.BytesIO(encode_unit_file(unit, [], PROVENANCE)))
    assert table.num_rows == 0
    assert table.schema.remove_metadata().equals(LABEL_SCHEMA)


def test_counts_add_up() -> None:
    unit, results = _unit()
    counts = count_rows(build_rows(unit, results, loose_files=False))
    total = counts + counts
    assert (total.images, total.num_errors, total.num_instances) == (6, 4, 2)


def test_a_bit_that_changes_in_a_page_is_noticed() -> None:
    """Not all of them break zstd or the encoding: without checksums some make another row of the same shape."""
    unit, results = _unit()
    data = encode_unit_file(unit, build_rows(unit, results, loose_files=False), PROVENANCE)
    expected = read_whole(data)
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    ends = [
        (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size for column in columns
    ]
    for position in range(4, max(ends)):
        changed = bytearray(data)
        changed[position] ^= 4
        try:
            found = read_whole(bytes(changed))
        except Exception as error:
            if not is_damage(error):
                raise
        else:
            assert found.equals(expected), position
