"""What a start would do, from a run directory alone: no Ray, no input, no model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.pipeline.worklist import find_missing, num_rows, plan_gaps, plan_retries
from sam3lt_ray.records import Shard, UnitRange
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import questions_of, read_layers
from sam3lt_ray.storage.ledger import UnitFile, shard_directory
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from tests.run_factory import make_failed_image, make_image, make_run, write_retry

CAT, DOG, CAR = Label(3, "cat", ("cat",)), Label(7, "dog", ("dog",)), Label(9, "car", ("car",))
SHARDS = [Shard(f"shard-{number}.tar", f"/in/shard-{number}.tar") for number in range(4)]


def _run(folder: Path) -> RunStore:
    """shard-0 is done, shard-1 half done, shard-2 new, shard-3 vanished."""
    images = [
        make_image("0", index=0, presence={3: 0.9, 7: 0.1}),
        make_failed_image("1", index=1),
        make_image("2", index=2, presence={3: 0.9, 7: 0.1}),
        *(make_image(str(n), index=n, shard="shard-1.tar", presence={3: 0.9, 7: 0.1}) for n in range(4)),
    ]
    store = make_run(folder, images, [CAT, DOG], images_per_unit=2)
    store.delete(UnitFile("000", shard_directory("shard-1.tar"), UnitRange(2, 2, is_last=True)).path)
    return store


def _prepared(store: RunStore, *labels: Label) -> tuple[PreparedRun, Coverage]:
    prepared: Any = SimpleNamespace(
        store=store,
        shards=SHARDS,
        snapshot=SimpleNamespace(vanished=["shard-3.tar"]),
        vocabulary=Vocabulary(labels, "test"),
    )
    return prepared, Coverage(read_layers(store), questions_of(labels)).list_layers(store)


def _planned(store: RunStore, *labels: Label) -> dict[str, dict[str, tuple[tuple[int, int | None], ...]]]:
    prepared, coverage = _prepared(store, *labels)
    work = plan_gaps(prepared, coverage, find_missing(prepared, coverage))
    return {layer.layer.name: {item.shard.name: item.gaps for item in layer.shards} for layer in work}


def test_a_start_with_the_same_labels_does_what_is_missing(tmp_path: Path) -> None:
    assert _planned(_run(tmp_path), CAT, DOG) == {"000": {"shard-1.tar": ((2, None),), "shard-2.tar": ((0, None),)}}


def test_a_new_label_makes_one_layer_for_old_images_and_one_for_new_ones(tmp_path: Path) -> None:
    store = _run(tmp_path)
    planned = _planned(store, CAT, DOG, CAR)
    assert planned == {
        "001": {"shard-0.tar": ((0, 3),), "shard-1.tar": ((0, 2),)},
        "002": {"shard-1.tar": ((2, None),), "shard-2.tar": ((0, None),)},
    }
    assert [layer.labels for layer in read_layers(store)[1:]] == [(CAR,), (CAT, DOG, CAR)]
    assert _planned(store, CAT, DOG, CAR) == planned, "a second driver would do something else"


def test_fewer_labels_and_other_names_ask_finished_shards_nothing(tmp_path: Path) -> None:
    planned = _planned(_run(tmp_path), Label(3, "feline", ("cat",)))
    assert planned == {"001": {"shard-1.tar": ((2, None),), "shard-2.tar": ((0, None),)}}


def test_other_prompts_of_one_label_ask_that_label_alone(tmp_path: Path) -> None:
    store = _run(tmp_path)
    kitten = Label(3, "cat", ("kitten",))
    assert _planned(store, kitten, DOG)["001"] == {"shard-0.tar": ((0, 3),), "shard-1.tar": ((0, 2),)}
    assert read_layers(store)[1].labels == (kitten,)


def test_a_reader_in_the_middle_of_a_shard_knows_what_stands_before(tmp_path: Path) -> None:
    prepared, coverage = _prepared(_run(tmp_path), CAT, DOG)
    (work,) = plan_gaps(prepared, coverage, find_missing(prepared, coverage))
    half, new = work.shards
    assert [unit.range for unit in half.committed] == [UnitRange(0, 2, is_last=False)]
    assert new.committed == ()


def test_only_rows_that_failed_are_tried_again(tmp_path: Path) -> None:
    store = _run(tmp_path)
    prepared, coverage = _prepared(store, CAT, DOG)
    work = plan_retries(prepared, coverage)
    assert num_rows(work) == 1
    (retry,) = work[0].shards[0].retries
    assert (retry.unit.range, retry.indexes) == (UnitRange(0, 2, is_last=False), frozenset({1}))
    write_retry(store, retry.unit, 1, [make_failed_image("1", index=1, kind="truncated")], [CAT, DOG])
    assert work[0].remaining(_prepared(store, CAT, DOG)[1]).shards == ()

    (again,) = plan_retries(*_prepared(store, CAT, DOG))[0].shards[0].retries
    assert again.path == retry.unit.retry_path(2)
    write_retry(store, again.unit, 2, [make_image("1", index=1, presence={3: 0.9, 7: 0.1})], [CAT, DOG])
    assert plan_retries(*_prepared(store, CAT, DOG)) == []
    assert [image.status for image in RunReader(store).iter_images()] == ["ok"] * 5
