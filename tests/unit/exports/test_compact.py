"""A compacted run holds the same rows in few files, whatever happened on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.exports import row_files
from sam3lt_ray.exports.compact import MANIFEST_PATH, CompactSummary, compact_run
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.labels.schema import LABEL_SCHEMA, META_LABELS, META_SCHEMA_VERSION
from sam3lt_ray.records import Shard, UnitRange
from sam3lt_ray.storage.ledger import unit_path
from sam3lt_ray.storage.local_store import LocalStore
from sam3lt_ray.storage.snapshot import write_snapshot
from sam3lt_ray.storage.store import RunStore, open_store
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_run

LABELS = (Label(3, "cat", ("cat",)), Label(7, "dog", ("dog",)))
SHARDS = {"a.tar": 11, "b.tar": 1, "c/d.tar": 8}


def images_of(shard: str, count: int) -> list[LabeledImage]:
    mask = np.zeros((31, 47), bool)
    mask[3:9, 5:20] = True
    found = make_instance(mask, label_id=7, score=0.75)
    return [
        make_failed_image(f"{i}.jpg", index=i, shard=shard)
        if i == 4
        else make_image(f"{i}.jpg", index=i, shard=shard, presence={3: 0.1, 7: i / 20}, instances=[found] * (i % 3))
        for i in range(count)
    ]


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    images = [image for shard, count in SHARDS.items() for image in images_of(shard, count)]
    store = make_run(tmp_path / "run", images, LABELS, layer="000")
    write_snapshot(store, [Shard(name, f"/data/{name}") for name in SHARDS])
    return store


def target_in(folder: Path) -> RunStore:
    return open_store(str(folder), StorageSettings())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return ds.dataset(folder, format="parquet").to_table().to_pylist()


def unit_rows(run: RunStore) -> list[dict[str, Any]]:
    table = pa.concat_tables([t.replace_schema_metadata(None) for t in RunReader(run).iter_tables()])
    return table.to_pylist()


@pytest.mark.parametrize(("max_rows", "files"), [(7, [7, 7, 6]), (20, [20]), (1000, [20]), (1, [1] * 20)])
def test_the_same_rows_in_files_of_the_wanted_size(
    run: RunStore, tmp_path: Path, max_rows: int, files: list[int]
) -> None:
    out = tmp_path / "out"
    summary = compact_run(RunReader(run), target_in(out), max_rows=max_rows, max_mb=None)
    assert (summary.rows, summary.files, summary.complete) == (20, len(files), True)
    assert rows_of(out) == unit_rows(run)
    counts = [ds.dataset(path, format="parquet").count_rows() for path in sorted(out.glob("*.parquet"))]
    assert counts == files
    places = [(row["shard"], row["index"]) for row in rows_of(out)]
    assert places == sorted(places)


def test_files_say_where_they_come_from(run: RunStore, tmp_path: Path) -> None:
    compact_run(RunReader(run), target_in(tmp_path / "out"))
    schema = ds.dataset(tmp_path / "out", format="parquet").schema
    assert schema.remove_metadata().equals(LABEL_SCHEMA)
    assert schema.metadata[META_SCHEMA_VERSION] == b"1"
    assert [label["id"] for label in json.loads(schema.metadata[META_LABELS])] == [3, 7]
    manifest = json.loads((tmp_path / "out" / MANIFEST_PATH).read_bytes())
    assert (manifest["rows"], manifest["complete"], manifest["fingerprint"]) == (20, True, "f00d" * 16)


def test_a_file_ends_with_the_row_group_that_reaches_its_size(
    run: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "GROUP_ROWS", 3)
    monkeypatch.setattr("sam3lt_ray.exports.compact.BYTES_PER_MB", 1)
    summary = compact_run(RunReader(run), target_in(tmp_path / "out"), max_mb=1)
    assert summary.files == 7
    assert rows_of(tmp_path / "out") == unit_rows(run)


class DyingStore(LocalStore):
    """Dies at its n-th change: before it or just after it."""

    def __init__(self, folder: Path, at: int, *, after: bool) -> None:
        super().__init__(str(folder), StorageSettings())
        self._left, self._after = at, after

    def _change(self, change: Callable[[], Any]) -> Any:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise KeyboardInterrupt
        result = change()
        if self._left == 0:
            raise KeyboardInterrupt
        return result

    def create(self, path: str, data: bytes) -> bool:
        return bool(self._change(lambda: super(DyingStore, self).create(path, data)))

    def replace(self, path: str, data: bytes) -> None:
        self._change(lambda: super(DyingStore, self).replace(path, data))

    def replace_from_file(self, path: str, local_file: Path) -> None:
        self._change(lambda: super(DyingStore, self).replace_from_file(path, local_file))

    def delete(self, path: str) -> None:
        self._change(lambda: super(DyingStore, self).delete(path))


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_and_started_again_it_is_the_same(run: RunStore, tmp_path: Path, after: bool) -> None:
    def compact(target: RunStore) -> CompactSummary:
        return compact_run(RunReader(run), target, max_rows=6, max_mb=None)

    compact(target_in(tmp_path / "whole"))
    whole = content(tmp_path / "whole")
    assert len(whole) == 6  # four files, what is made, and what was made
    for at in range(1, 7):
        out = tmp_path / f"killed-{at}"
        with pytest.raises(KeyboardInterrupt):
            compact(DyingStore(out, at, after=after))
        summary = compact(target_in(out))
        assert content(out) == whole
        # What was written before is not written again.
        assert summary.rows_reused == min(20, 6 * max(0, at - 2 + after))


def test_a_second_time_changes_nothing(run: RunStore, tmp_path: Path) -> None:
    compact_run(RunReader(run), target_in(tmp_path / "out"))
    before = content(tmp_path / "out")
    assert compact_run(RunReader(run), target_in(tmp_path / "out")).rows_reused == 20
    assert content(tmp_path / "out") == before


def test_another_compaction_is_not_mixed_in(run: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compact_run(RunReader(run), target_in(out), max_rows=6, max_mb=None)
    with pytest.raises(RunMismatchError, match="max_rows 6, now 9"):
        compact_run(RunReader(run), target_in(out), max_rows=9, max_mb=None)
    assert compact_run(RunReader(run), target_in(out), max_rows=9, max_mb=None, overwrite=True).files == 3
    assert rows_of(out) == unit_rows(run)


def test_other_files_in_the_folder_are_refused(run: RunStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="other Parquet files"):
        compact_run(RunReader(run), target_in(tmp_path / "out"))


def test_an_incomplete_run_is_refused_unless_asked_for(run: RunStore, tmp_path: Path) -> None:
    write_snapshot(run, [Shard(name, f"/data/{name}") for name in [*SHARDS, "later.tar"]])
    with pytest.raises(InputError, match="3 of 4 shards"):
        compact_run(RunReader(run), target_in(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert not compact_run(RunReader(run), target_in(tmp_path / "out"), allow_incomplete=True).complete


def test_a_file_that_was_damaged_since_is_noticed(run: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    compact_run(RunReader(run), target_in(out), max_rows=6, max_mb=None)
    first, second = sorted(out.glob("*.parquet"))[:2]
    second.write_bytes(first.read_bytes())
    with pytest.raises(RunMismatchError, match=r"repeats image 0 of a\.tar"):
        compact_run(RunReader(run), target_in(out), max_rows=6, max_mb=None)


def test_files_of_one_shard_in_the_directory_of_another_are_noticed(run: RunStore, tmp_path: Path) -> None:
    stray = unit_path("000", "a.tar", UnitRange(0, 4, is_last=False))
    run.replace(unit_path("000", "c/d.tar", UnitRange(0, 4, is_last=False)), run.read(stray))
    with pytest.raises(RunMismatchError, match=r"a\.tar stand in the directory c_d\.tar-.* mixed up"):
        compact_run(RunReader(run), target_in(tmp_path / "out"))


def test_a_shard_whose_content_changed_is_compacted_from_its_present_directory(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", images_of("a.tar", 3), LABELS)
    data = store.read(unit_path("000", "a.tar", UnitRange(0, 3, is_last=True)))
    store.create(unit_path("000", "a.tar", UnitRange(0, 3, is_last=True), "0123abcd"), data)
    write_snapshot(store, [Shard("a.tar", "/data/a.tar", edition="0123abcd")])
    assert compact_run(RunReader(store), target_in(tmp_path / "out")).rows == 3


def test_a_run_without_images_is_a_file_without_rows(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", [], LABELS, layer="000")
    write_snapshot(store, [])
    assert compact_run(RunReader(store), target_in(tmp_path / "out")).rows == 0
    assert ds.dataset(tmp_path / "out", format="parquet").schema.remove_metadata().equals(LABEL_SCHEMA)


def test_labels_that_only_some_layers_could_answer_are_null(tmp_path: Path) -> None:
    """The first layer failed where the second did not: the row is an error with what is known."""
    first = [make_failed_image("a.jpg"), make_image("b.jpg", index=1, presence={3: 0.25})]
    second = [make_image("a.jpg", presence={7: 0.5}), make_image("b.jpg", index=1, presence={7: 0.75})]
    make_run(tmp_path / "run", first, LABELS[:1], layer="000")
    store = make_run(tmp_path / "run", second, LABELS[1:], layer="001")
    write_snapshot(store, [Shard("shard-0.tar", "/data/shard-0.tar")])
    compact_run(RunReader(store), target_in(tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["error", "ok"]
    assert [row["presence"] for row in rows] == [[None, 0.5], [0.25, 0.75]]
