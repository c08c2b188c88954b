"""Which pass follows which, with passes that do what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.pipeline import sweeping
from sam3lt_ray.pipeline.actor_plan import ActorResources
from sam3lt_ray.pipeline.passes import PassCutShortError
from sam3lt_ray.pipeline.sweeping import Sweeper
from sam3lt_ray.storage.local_store import LocalStore

CUT = "cut short"


class Books:
    """Counts units as the real ones do, and nothing else."""

    def __init__(self) -> None:
        self.tally = SimpleNamespace(units=0)
        self.totals = SimpleNamespace(forget_missing=lambda *_: None)
        self.last_loss: str | None = None
        self.is_enough = False

    def begin_pass(self, resources: object) -> None:
        pass

    def add(self, outcome: object) -> None:
        self.tally.units += 1


class Work:
    """A layer of which so many units are missing."""

    def __init__(self, books: Books, units: int) -> None:
        self.layer = SimpleNamespace(name="000")
        self._books, self._units = books, units

    @property
    def shards(self) -> list[object]:
        return [object()] * (self._units - self._books.tally.units)

    def remaining(self, coverage: object) -> Work:
        return self


def sweep(
    monkeypatch: pytest.MonkeyPatch, folder: Path, units: int, *passes: int | str | tuple[int, str]
) -> tuple[int, list[bool], Books]:
    """Sweep with passes that commit so many units, or are cut short.

    Returns:
        Units left, which passes were careful, and the books.
    """
    script, careful = list(passes), []
    books = Books()

    class ScriptedPass:
        def __init__(self, reader: object, work: object, is_careful: bool, resources: object) -> None:
            careful.append(is_careful)

        def run(self) -> Iterator[object]:
            step = script.pop(0)
            committed, end = step if isinstance(step, tuple) else (step, "") if isinstance(step, int) else (0, step)
            yield from [object()] * committed
            if end:
                raise PassCutShortError(end)

    monkeypatch.setattr(sweeping, "Pass", ScriptedPass)
    monkeypatch.setattr(sweeping, "plan_actors", lambda *_, **__: ActorResources(1, 1.0, 0.0, "cpu", 1, 1))
    monkeypatch.setattr(sweeping, "marked_pass", lambda *_: nullcontext("id"))
    monkeypatch.setattr(Sweeper, "_job", lambda *asked: asked[2])
    prepared: Any = SimpleNamespace(
        store=LocalStore(str(folder), StorageSettings()),
        config=SimpleNamespace(compute=SimpleNamespace(max_passes=3)),
        checkpoint=SimpleNamespace(weight_bytes=1),
        reader=lambda: None,
        coverage=lambda: SimpleNamespace(all_paths=list),
    )
    quiet: Any = SimpleNamespace(confirm=lambda: None, check=lambda: None, message=lambda *_: None)
    sweeper = Sweeper(prepared, books, quiet, quiet, quiet, quiet, may_grow=False)  # type: ignore[arg-type]
    rest = sweeper.sweep_until_complete(Work(books, units))  # type: ignore[arg-type]
    assert rest is not None
    assert script == [], "fewer passes than expected"
    return len(rest.shards), careful, books


def test_one_pass_is_enough_when_all_goes_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sweep(monkeypatch, tmp_path, 5, 5)[:2] == (0, [False])


def test_the_last_passes_are_careful_and_go_on_while_they_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sweep(monkeypatch, tmp_path, 9, 5, 0, 1, 1, 0)[:2] == (2, [False, False, True, True, True])


def test_a_pass_that_was_cut_short_does_not_make_the_next_one_careful(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left, careful, books = sweep(monkeypatch, tmp_path, 9, CUT, CUT, (3, CUT), CUT, 6)
    assert (left, careful) == (0, [False] * 5)
    assert books.last_loss == CUT


def test_three_passes_in_a_row_that_were_cut_short_before_anything_are_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert sweep(monkeypatch, tmp_path, 9, (3, CUT), CUT, CUT, CUT)[:2] == (6, [False] * 4)
