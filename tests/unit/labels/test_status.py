"""What ``sam3lt status`` says of a run that somebody works on, seems to, or did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.labels.status import read_run_state
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.ledger import LABELS_PREFIX
from sam3lt_ray.storage.snapshot import write_snapshot
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_run

CAT = Label(3, "cat", ("cat",))
NOW = 1_700_000_000.0
DEAD = {
    "holder": "h",
    "host": "elsewhere",
    "boot_id": "other",
    "pid": 7,
    "process_start": "1",
    "acquired_at": NOW - 7_200,
    "renewed_at": NOW,
    "released": False,
}


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    """One shard of eight images in units of two, a minute apart until five minutes ago; another one of no unit."""
    images = [
        make_failed_image(str(i), index=i, message=f"Damaged at byte {i}.") if i in (1, 4) else _image(i)
        for i in range(8)
    ]
    store = make_run(tmp_path, images, [CAT], images_per_unit=2)
    write_snapshot(store, [Shard("shard-0.tar", "shard-0.tar", 800), Shard("shard-1.tar", "shard-1.tar", 400)])
    for position, item in enumerate(store.list(LABELS_PREFIX)):
        _touch(store, item.path, NOW - 480 + 60 * position)
    return store


def _image(index: int) -> Any:
    return make_image(str(index), index=index, presence={3: 0.5})


def _touch(store: RunStore, path: str, at_s: float) -> None:
    os.utime(store.location(path), (at_s, at_s))


def _hold(store: RunStore, renewed_age_s: float, **changes: object) -> None:
    store.replace("lease/00000001.json", json.dumps(DEAD | changes).encode())
    _touch(store, "lease/00000001.json", NOW - renewed_age_s)


def _snapshot_of(store: RunStore) -> dict[str, float]:
    return {item.path: item.modified_s for item in store.list("")}


def test_while_it_runs(run: RunStore) -> None:
    _hold(run, 10)
    before = _snapshot_of(run)
    state = read_run_state(run, NOW)
    assert _snapshot_of(run) == before, "status has written something"
    assert (state.shards_done, state.shards_total, state.images_done, state.images_left) == (1, 2, 8, 4)
    assert state.images_left_is_estimate
    assert state.images_per_s == pytest.approx(6 / 180)
    assert state.remaining_s == pytest.approx(120)
    assert state.causes == {"corrupt: Damaged at byte ….": 2}
    assert state.holder is not None
    assert (state.holder.held_s, state.holder.is_silent, state.holder.looks_stuck) == (7_200, False, False)
    lines = state.to_text().splitlines()
    assert "shards     1 of 2 done, 1 open" in lines
    assert "rate       0.033 images/s over the last commits" in lines
    assert "left       about 4 images, about 2 min at this rate" in lines
    assert "newest     unit committed 5 min ago" in lines
    assert "cause      2 x corrupt: Damaged at byte …." in lines
    assert any(line.startswith("held by    process 7 on elsewhere since 2023-11-14") for line in lines)
    assert json.loads(json.dumps(state.to_json()))["shards_open"] == 1


@pytest.mark.parametrize(
    ("renewed_age_s", "later_s", "silent", "stuck", "said"),
    [
        (10, 0, False, False, ""),
        (10, 500, False, False, ""),
        (10, 700, False, True, "looks stuck"),
        (300, 700, True, False, "not been heard of for 5 min; the next start takes over"),
    ],
)
def test_a_holder_lives_hangs_or_is_gone(
    run: RunStore, renewed_age_s: float, later_s: float, silent: bool, stuck: bool, said: str
) -> None:
    _hold(run, renewed_age_s - later_s)
    state = read_run_state(run, NOW + later_s)
    assert state.holder is not None
    assert (state.holder.is_silent, state.holder.looks_stuck) == (silent, stuck)
    assert said in state.to_text()


def test_a_start_that_has_just_begun_is_not_stuck_whatever_the_age_of_earlier_commits(run: RunStore) -> None:
    _hold(run, -86_400, acquired_at=NOW + 86_400 - 60)
    state = read_run_state(run, NOW + 86_400)
    assert state.holder is not None
    assert not state.holder.looks_stuck


def test_slow_shards_are_named_beside_the_median(tmp_path: Path) -> None:
    names = [f"shard-{i}.tar" for i in range(3)]
    images = [make_image(str(i), shard=name, index=i, presence={3: 0.5}) for name in names for i in range(4)]
    store = make_run(tmp_path, images, [CAT], images_per_unit=2)
    write_snapshot(store, [Shard(name, name, 400) for name in names])
    for item in store.list(LABELS_PREFIX):
        seconds = 200 if "shard-1" in item.path else 1
        _touch(store, item.path, NOW - 300 + (seconds if ".last." in item.path else 0))
    state = read_run_state(store, NOW)
    assert "slowest    shard-1.tar: 0.01 images/s (median of the shards 2.0)" in state.to_text().splitlines()
    assert "left" not in state.to_text(), "a complete run has nothing left"


def test_before_a_shard_is_done_its_units_tell_what_an_image_takes(tmp_path: Path) -> None:
    store = make_run(tmp_path, [_image(i) for i in range(8)], [CAT], images_per_unit=2, bytes_per_image=100)
    write_snapshot(store, [Shard("shard-0.tar", "shard-0.tar", 1_600), Shard("shard-1.tar", "shard-1.tar", 400)])
    (last,) = [item.path for item in store.list(LABELS_PREFIX) if ".last." in item.path]
    store.delete(last)
    state = read_run_state(store, NOW)
    assert (state.images_left, state.images_left_is_estimate) == (10 + 4, True)


def test_a_lease_that_was_given_back_is_nobodys(run: RunStore) -> None:
    _hold(run, 10, released=True)
    assert read_run_state(run, NOW).holder is None
    assert "held by" not in read_run_state(run, NOW).to_text()


def test_few_footers_are_opened_for_causes_and_none_without_errors(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sam3lt_ray.labels import status

    opened: list[list[str]] = []
    read: Callable[..., Any] = status.read_counts
    monkeypatch.setattr(status, "read_counts", lambda store, paths: (opened.append(paths), read(store, paths))[1])
    read_run_state(run, NOW)
    assert [[path[-26:-8] for path in paths] for paths in opened] == [["0000000000-0000002", "0000000004-0000002"]]
    monkeypatch.setattr(status, "_MAX_OPENED_FOR_CAUSES", 1)
    assert read_run_state(run, NOW).causes == {"corrupt: Damaged at byte ….": 1}
