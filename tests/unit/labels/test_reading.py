"""Reading a run back: units, shards and layers become one value per image."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.labels.counting import summarize
from sam3lt_ray.labels.footer import read_counts, read_keys, read_resume_offset
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.labels.rows import Provenance, encode_unit_file
from sam3lt_ray.labels.schema import LABEL_SCHEMA
from sam3lt_ray.records import Unit, UnitRange
from sam3lt_ray.storage.ledger import unit_path
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_reader, make_run

CAT, DOG, CAR = Label(3, "cat", ("cat",), 0.4), Label(5, "dog", ("dog", "puppy")), Label(9, "car", ("car",))


def _square(left: int, side: int = 10) -> np.ndarray:
    mask = np.zeros((48, 80), dtype=bool)
    mask[4 : 4 + side, left : left + side] = True
    return mask


def _images() -> list[LabeledImage]:
    first = make_image(
        "a/0.jpg",
        index=0,
        presence={3: 0.9, 5: 0.1},
        saturated=(3,),
        instances=[
            make_instance(_square(1), label_id=3, score=0.8),
            make_instance(_square(30), label_id=3, score=0.3, prompt_index=1),
        ],
    )
    failed = make_failed_image("a/1.jpg", index=1, kind="truncated")
    nothing = make_image("a/2.jpg", index=2, presence={3: 0.0, 5: 0.0}, size_hw=(30, 20))
    other_shard = make_image(
        "a/0.jpg",
        index=0,
        shard="shard-1.tar",
        presence={3: 0.2, 5: 0.75},
        instances=[make_instance(_square(60, 5), label_id=5, score=0.6)],
    )
    return [first, failed, nothing, other_shard]


def test_every_image_comes_back_as_it_was_written(tmp_path: Path) -> None:
    for images_per_unit in (1, 2, 100):
        store = make_run(tmp_path / str(images_per_unit), _images(), [CAT, DOG], images_per_unit=images_per_unit)
        assert list(RunReader(store).iter_images()) == _images()


def test_vocabulary_and_run_come_from_the_run_directory(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, _images(), [CAT, DOG])
    assert reader.vocabulary().labels == (CAT, DOG)
    assert reader.run["fingerprint"] == "f00d" * 16
    assert reader.thresholds() == {3: 0.4, 5: 0.5}
    assert reader.thresholds(0.7) == {3: 0.4, 5: 0.7}


def test_tables_have_the_schema_and_one_per_unit(tmp_path: Path) -> None:
    reader = RunReader(make_run(tmp_path, _images(), [CAT, DOG], images_per_unit=2))
    tables = list(reader.iter_tables())
    assert [table.num_rows for table in tables] == [2, 1, 1]
    assert all(table.schema.equals(LABEL_SCHEMA, check_metadata=False) for table in tables)


def test_parts_of_the_instances_can_be_read_alone(tmp_path: Path) -> None:
    reader = make_reader(tmp_path, _images(), [CAT, DOG])
    table = pa.concat_tables(reader.iter_tables(["key", "instances.list.element.score"]))
    assert table.column_names == ["key", "instances"]
    assert table.column("instances").to_pylist()[0] == [{"score": np.float32(0.8)}, {"score": np.float32(0.3)}]


def test_layers_are_joined_whatever_their_units(tmp_path: Path) -> None:
    make_run(tmp_path, _images(), [CAT, DOG], images_per_unit=2)
    added = [
        make_image("a/0.jpg", index=0, presence={9: 0.6}, instances=[make_instance(_square(7), label_id=9, score=0.9)]),
        make_failed_image("a/1.jpg", index=1, kind="worker_died"),
        make_failed_image("a/2.jpg", index=2, kind="out_of_memory", message="Too large."),
    ]
    reader = RunReader(make_run(tmp_path, added, [CAR], layer="001", images_per_unit=3))

    first, failed, half_failed, not_yet_in_new_layer = list(reader.iter_images())
    assert reader.vocabulary().labels == (CAT, DOG, CAR)
    assert first.presence.keys() == {3, 5, 9}
    assert first.saturated == (3,)
    assert [instance.label_id for instance in first.instances] == [3, 3, 9]
    assert (failed.status, failed.error_kind) == ("error", "truncated")
    assert (half_failed.status, half_failed.error_kind, half_failed.width) == ("error", "out_of_memory", 20)
    assert half_failed.presence == {3: 0.0, 5: 0.0}
    assert not_yet_in_new_layer.presence == {3: pytest.approx(0.2, abs=1e-3), 5: 0.75}


def test_layers_that_saw_different_images_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path, _images(), [CAT, DOG])
    reader = RunReader(make_run(tmp_path, [make_image("b/9.jpg", presence={9: 0.5})], [CAR], layer="001"))
    with pytest.raises(RunMismatchError, match=r"'a/0.jpg' in one layer and 'b/9.jpg'"):
        list(reader.iter_images())


def test_stray_files_are_passed_over(tmp_path: Path) -> None:
    store = make_run(tmp_path, _images(), [CAT, DOG])
    store.create("labels/README.txt", b"mine")
    store.create("labels/000/notes/old.parquet", b"mine")
    assert len(list(RunReader(store).iter_images())) == 4


def test_a_run_without_labels_is_empty(tmp_path: Path) -> None:
    assert list(make_reader(tmp_path, [], [CAT]).iter_images()) == []


def test_a_damaged_unit_is_named(tmp_path: Path) -> None:
    store = make_run(tmp_path, _images(), [CAT, DOG])
    path = unit_path("000", "shard-1.tar", UnitRange(0, 1, True))
    store.replace(path, b"PAR1 and then nothing")
    with pytest.raises(RunMismatchError, match=r"0000000000-0000001\.last\.parquet is not a readable Parquet"):
        list(RunReader(store).iter_images())


def _damaged(data: bytes, how: str) -> bytes:
    if how == "page":  # the footer is whole, what it speaks of is not
        return data[:60] + b"\xa5" * 40 + data[100:]
    return {"cut": data[: len(data) // 2], "empty": b"", "other": b"PAR1 and then nothing"}[how]


@pytest.mark.parametrize("how", ["page", "cut", "empty", "other"])
def test_every_reader_names_a_damaged_unit(tmp_path: Path, how: str) -> None:
    store = make_run(tmp_path, _images(), [CAT, DOG])
    path = RunReader(store).unit_files()[0].path
    store.replace(path, _damaged(store.read(path), how))
    readers: list[Callable[[], object]] = [lambda: list(RunReader(store).iter_images())]
    if how != "page":
        readers += [lambda: list(read_counts(store, [path])), lambda: read_resume_offset(store, path)]
        readers += [lambda: read_keys(store, path)]
    for read in readers:
        with pytest.raises(RunMismatchError, match=rf"{path} is not a readable Parquet .* Delete it and run"):
            read()


def test_a_file_that_says_nothing_of_itself_is_named(tmp_path: Path) -> None:
    store = make_run(tmp_path, _images(), [CAT, DOG])
    path = RunReader(store).unit_files()[0].path
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"]}), sink)
    store.replace(path, sink.getvalue())
    for read in (lambda: list(read_counts(store, [path])), lambda: read_resume_offset(store, path)):
        with pytest.raises(RunMismatchError, match="Delete it and run"):
            read()


def test_storage_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_run(tmp_path, _images(), [CAT, DOG])

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(OSError, match="Input/output error"):
        list(RunReader(store).iter_images())


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    store = make_run(tmp_path, [], [CAT])
    store.delete("vocabulary.json")
    with pytest.raises(InputError, match=r"no vocabulary\.json"):
        RunReader(store).vocabulary()
    store.delete("run.json")
    with pytest.raises(InputError, match="not a run directory"):
        _ = RunReader(store).run


def test_a_unit_without_images_is_read_as_none(tmp_path: Path) -> None:
    store = make_run(tmp_path, [], [CAT])
    unit = Unit("empty.tar", UnitRange(0, 0, True), ())
    store.create(
        unit_path("000", unit.shard, unit.range), encode_unit_file(unit, [], Provenance("f", {}, ((3, "cat"),)))
    )
    reader = RunReader(store)
    assert [table.num_rows for table in reader.iter_tables()] == [0]
    assert list(reader.iter_images()) == []
    assert summarize(reader).images == 0
