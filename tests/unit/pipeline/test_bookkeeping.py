"""What a start tells of its whole work, and how many devices it counts on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.labels.images_ahead import ImagesAhead
from sam3lt_ray.pipeline.actor_plan import ActorResources
from sam3lt_ray.pipeline.bookkeeping import Bookkeeping
from sam3lt_ray.progress import SilentProgress
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.local_store import LocalStore


class Told(SilentProgress):
    """Keeps what it is told of the whole."""

    def __init__(self) -> None:
        self.totals: list[tuple[int | None, bool]] = []

    def plan_known(
        self, *, total_images: int | None, is_estimate: bool = False, done_images: int = 0, done_units: int = 0
    ) -> None:
        self.totals.append((total_images, is_estimate))


def _books(folder: Path, told: Told, limit: int | None = None) -> Bookkeeping:
    prepared: Any = SimpleNamespace(
        store=LocalStore(str(folder), StorageSettings()),
        config=SimpleNamespace(errors=SimpleNamespace(max_error_fraction=None)),
    )
    return Bookkeeping(prepared, told, limit)


@pytest.mark.parametrize(
    ("limit", "total"), [(None, (30, False)), (5, (15, False)), (20, (30, False)), (50, (30, False))]
)
def test_a_limit_counts_from_what_is_done(tmp_path: Path, limit: int | None, total: tuple[int, bool]) -> None:
    told = Told()
    _books(tmp_path, told, limit).announce(ImagesAhead(done=10, counted=20))
    assert told.totals == [total]


@pytest.mark.parametrize(("limit", "total"), [(None, (None, True)), (5, (5, True))])
def test_a_limit_is_the_most_there_is_where_nothing_is_known(
    tmp_path: Path, limit: int | None, total: tuple[int | None, bool]
) -> None:
    told = Told()
    ahead = ImagesAhead.look([Shard("a.tar", "a.tar", 1_000)], Coverage([], {1: ("cat",)}))
    _books(tmp_path, told, limit).announce(ahead)
    assert told.totals == [total]


def test_actors_that_find_no_room_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}, {"Alive": False, "Resources": {"GPU": 8.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    books = _books(tmp_path, Told())
    books.begin_pass(ActorResources(4, 1.0, 1.0, "cuda", 1, 1))
    assert (books.tally.passes, books.tally.most_actors) == (1, 1)
