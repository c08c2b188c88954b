"""The totals of a run, joined over units, layers and retries."""

from __future__ import annotations

from itertools import compress
from pathlib import Path

import numpy as np

from sam3lt_ray.labels.counting import summarize
from sam3lt_ray.labels.footer import read_counts
from sam3lt_ray.labels.joined_counts import joined_counts
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.status import read_run_state
from sam3lt_ray.labels.totals import RunTotals
from sam3lt_ray.records import UnitRange
from sam3lt_ray.storage.ledger import UnitFile, layer_of, shard_directory
from sam3lt_ray.storage.run_directory import encode_json
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_run, write_retry

MASK = np.ones((6, 9), bool)
CAT, DOG, CAR = Label(3, "cat", ("cat",)), Label(7, "dog", ("dog",)), Label(9, "car", ("car",))


def _image(key: str, index: int, found: dict[int, int], label_ids: tuple[int, ...] = (3, 7)) -> LabeledImage:
    instances = [make_instance(MASK, label_id=one, score=0.5) for one, count in found.items() for _ in range(count)]
    return make_image(key, index=index, presence=dict.fromkeys(label_ids, 0.9), instances=instances)


def _two_layers(folder: Path) -> RunStore:
    images = [
        _image("a", 0, {3: 1}),
        make_failed_image("b", index=1, kind="corrupt"),
        _image("c", 2, {3: 2, 7: 1}),
        make_failed_image("d", index=3, kind="empty"),
        make_failed_image("e", index=4, kind="corrupt"),
    ]
    make_run(folder, images, [CAT, DOG], images_per_unit=2)
    added = [
        make_failed_image("a", index=0, kind="out_of_memory"),
        make_failed_image("b", index=1, kind="failed"),
        *(_image(key, index, {9: 2}, (9,)) for index, key in enumerate("cde", start=2)),
    ]
    return make_run(folder, added, [CAR], layer="001", images_per_unit=3)


def _check(store: RunStore, expected: UnitCounts) -> None:
    """Every way of counting agrees."""
    reader = RunReader(store)
    coverage = reader.coverage()
    totals = RunTotals(store, is_kept=False)
    for unit in coverage.iter_units():  # as a start has counted them before somebody retried their errors
        for path in unit.paths[:1]:
            totals.add(path, *read_counts(store, [path]))
    assert joined_counts(reader, coverage, totals) == expected
    paths = list(coverage.all_paths())
    known = totals.are_known(totals.forget_missing(paths))
    assert [path for path in compress(paths, ~known) if layer_of(path) in coverage.answers] == []
    assert joined_counts(reader, coverage, totals) == expected
    assert joined_counts(reader, coverage, RunTotals(store, is_kept=False)) == expected
    counts = summarize(reader)
    assert (counts.images, counts.errors_by_kind) == (expected.images, expected.errors)
    assert {id_: label.instances for id_, label in counts.labels.items() if label.instances} == expected.instances
    images = list(reader.iter_images())
    assert sum(image.status == "error" for image in images) == expected.num_errors
    assert sum(len(image.instances) for image in images) == expected.num_instances
    state = read_run_state(store)
    assert (state.images_done, state.errors) == (expected.images, expected.errors)


def test_units_add_up(tmp_path: Path) -> None:
    images = [_image("a", 0, {3: 1}), make_failed_image("b", index=1), _image("c", 2, {3: 2, 7: 1})]
    _check(make_run(tmp_path, images, [CAT, DOG], images_per_unit=2), UnitCounts(3, {"corrupt": 1}, {3: 3, 7: 1}))


def test_layers_are_joined_by_image(tmp_path: Path) -> None:
    errors = {"corrupt": 2, "empty": 1, "out_of_memory": 1}
    _check(_two_layers(tmp_path), UnitCounts(5, errors, {3: 3, 7: 1, 9: 6}))


def test_a_retry_replaces_the_rows_it_holds(tmp_path: Path) -> None:
    store = _two_layers(tmp_path)
    unit = UnitFile("000", shard_directory("shard-0.tar"), UnitRange(0, 2, is_last=False))
    last = UnitFile("000", shard_directory("shard-0.tar"), UnitRange(4, 1, is_last=True))
    write_retry(store, unit, 1, [make_failed_image("b", index=1, kind="truncated")], [CAT, DOG])
    _check(store, UnitCounts(5, {"truncated": 1, "corrupt": 1, "empty": 1, "out_of_memory": 1}, {3: 3, 7: 1, 9: 6}))
    write_retry(store, unit, 2, [_image("b", 1, {7: 4})], [CAT, DOG])
    write_retry(store, last, 1, [_image("e", 4, {3: 1})], [CAT, DOG])
    # Image b failed in the other layer, too.
    _check(store, UnitCounts(5, {"failed": 1, "empty": 1, "out_of_memory": 1}, {3: 4, 7: 5, 9: 6}))
    images = {image.key: image for image in RunReader(store).iter_images()}
    assert [image.index for image in images.values()] == [0, 1, 2, 3, 4]
    assert images["e"].status == "ok"
    assert images["e"].presence.keys() == {3, 7, 9}


def test_what_two_drivers_both_asked_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path, [_image("a", 0, {3: 1, 7: 1}), make_failed_image("b", index=1)], [CAT, DOG])
    both = [_image("a", 0, {3: 1, 9: 1}, (3, 9)), _image("b", 1, {3: 1, 9: 1}, (3, 9))]
    store = make_run(tmp_path, both, [CAT, CAR], layer="001")
    _check(store, UnitCounts(2, {"corrupt": 1}, {3: 2, 7: 1, 9: 2}))
    twice = [_image("a", 0, {3: 1, 7: 1, 9: 1}, (3, 7, 9)), _image("b", 1, {9: 1}, (3, 7, 9))]
    store = make_run(tmp_path, twice, [CAT, DOG, CAR], layer="002")
    _check(store, UnitCounts(2, {}, {3: 1, 7: 1, 9: 2}))


def test_labels_that_were_removed_or_ask_something_else_are_not_read(tmp_path: Path) -> None:
    store = _two_layers(tmp_path)
    labels = [Label(7, "hound", ("dog",)), Label(9, "car", ("automobile",))]
    store.replace("vocabulary.json", encode_json({"labels": [label.to_json() for label in labels]}))
    _check(store, UnitCounts(5, {"corrupt": 2, "empty": 1}, {7: 1}))
    images = list(RunReader(store).iter_images())
    assert [image.presence.keys() for image in images if image.status == "ok"] == [{7}, {7}]
