"""How a start ends: an interrupted one has no time to look at a large run once more, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sam3lt_ray.pipeline import session as session_module
from sam3lt_ray.pipeline.session import RunSession
from sam3lt_ray.pipeline.signals import StopRequest
from sam3lt_ray.progress import SilentProgress
from sam3lt_ray.records import Shard, UnitRange
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import questions_of, read_layers
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.ledger import UnitFile, shard_directory
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from tests.run_factory import make_failed_image, make_image, make_run

CAT = Label(3, "cat", ("cat",))
SHARDS = [Shard(f"shard-{number}.tar", f"/in/shard-{number}.tar") for number in range(2)]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """shard-0 is done, shard-1 half done."""
    images = [make_image("0", presence={3: 0.9}), make_failed_image("1", index=1)]
    images += [make_image(str(n), index=n, shard="shard-1.tar", presence={3: 0.9}) for n in range(4)]
    store = make_run(tmp_path, images, [CAT], images_per_unit=2)
    store.delete(UnitFile("000", shard_directory("shard-1.tar"), UnitRange(2, 2, is_last=True)).path)
    return store


def _session(store: RunStore) -> RunSession:
    def coverage() -> Coverage:
        return Coverage(read_layers(store), questions_of([CAT])).list_layers(store)

    prepared: Any = SimpleNamespace(
        store=store,
        coverage=coverage,
        shards=SHARDS,
        snapshot=SimpleNamespace(shards=SHARDS, new=[], changed=[], vanished=[]),
        vocabulary=Vocabulary((CAT,), "test"),
        config=SimpleNamespace(
            errors=SimpleNamespace(max_error_fraction=None),
            input=SimpleNamespace(has_loose_files=False),
            compute=None,
            storage=None,
        ),
    )
    options: Any = SimpleNamespace(limit=None, verbose=False, log_format="text")
    return RunSession(prepared, SilentProgress(), Lease(store), StopRequest(), options)


def test_over_the_budget_with_nothing_to_do_says_where_the_causes_are(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session(store)
    session._prepared.config.errors.max_error_fraction = 0.0
    monkeypatch.setattr(session, "_plan_missing", list)
    summary = session.label_missing()
    assert summary.exit_code == 3
    assert summary.message.endswith("allows. This start made none of them; `sam3lt status` says why they failed.")


def _interrupted(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], int]:
    """The summary of a start that is interrupted when it has planned, and how often it then lists the labels."""
    session = _session(store)

    def interrupt(*_: object, **__: object) -> None:
        listed.clear()
        raise KeyboardInterrupt

    listed: list[str] = []
    listing = store.list
    monkeypatch.setattr(store, "list", lambda prefix="": (listed.append(prefix), listing(prefix))[1])
    monkeypatch.setattr(session_module, "ray_session", interrupt)
    summary = session.label_missing()
    assert summary.exit_code == 75
    assert json.loads(store.read("run_summary.json")) == summary.to_json()
    return summary.to_json(), listed.count("labels")


def test_a_small_run_that_is_interrupted_is_summed_up_as_always(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, num_listed = _interrupted(store, monkeypatch)
    assert num_listed == 1
    assert (summary["status"], summary["complete"], summary["shards"], summary["shards_open"]) == (
        "interrupted",
        False,
        2,
        1,
    )
    assert (summary["units"], summary["images"]["total"], summary["errors"]) == (2, 4, {"corrupt": 1})
    assert summary["session"]["shards"] == {"new": 0, "changed": 0, "vanished": 0, "open_before": 1, "finished": 0}


def test_a_large_run_that_is_interrupted_is_not_listed_again(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_MAX_UNITS_LISTED_IN_HASTE", 1)
    summary, num_listed = _interrupted(store, monkeypatch)
    assert num_listed == 0
    unknown = {name for name, value in summary.items() if value is None}
    assert unknown == {"complete", "shards_open", "units", "images", "errors", "instances"}
    assert summary["shards"] == 2
    assert summary["session"]["shards"] == {"new": 0, "changed": 0, "vanished": 0, "open_before": 1, "finished": None}


def test_what_only_rows_could_tell_is_left_out_in_haste(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = UnitFile("000", shard_directory("shard-0.tar"), UnitRange(0, 2, is_last=True))
    store.create(failed.retry_path(1), store.read(failed.path))
    summary, _ = _interrupted(store, monkeypatch)
    assert (summary["images"], summary["errors"], summary["units"]) == (None, None, 2)
