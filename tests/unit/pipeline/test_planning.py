"""A plan ends as the start would that it is the plan of."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.pipeline.planning import PlanReport, plan_run
from sam3lt_ray.storage.run_directory import RUN_PATH, encode_json
from sam3lt_ray.storage.store import open_store
from tests.standin import plain_image, write_tar


def _config(folder: Path, on_exists: str = "resume") -> Config:
    return Config.model_validate(
        {
            "run": {"output": str(folder / "run"), "on_exists": on_exists},
            "input": {"format": "webdataset", "uri": str(folder / "in")},
            "vocabulary": ["star"],
        }
    )


@pytest.fixture(autouse=True)
def shard(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", [("0.png", plain_image((7, 5, 3), (44, 31)))])


def _other_run(folder: Path) -> None:
    store = open_store(str(folder / "run"), _config(folder).storage)
    store.create(RUN_PATH, encode_json({"format_version": 2, "identity": {"labels": {}}}))
    store.create("vocabulary.json", encode_json({"labels": []}))


def _outcome(plan: PlanReport) -> tuple[str, int]:
    return plan.rerun, plan.exit_code


def test_a_new_run_is_not_refused(tmp_path: Path) -> None:
    plan = plan_run(_config(tmp_path))
    assert _outcome(plan) == ("new", 0)
    assert plan.refusal is None
    assert "refused  " not in plan.to_text()


def test_retrying_the_errors_of_no_run_is_refused(tmp_path: Path) -> None:
    plan = plan_run(_config(tmp_path), retry_errors=True)
    assert _outcome(plan) == ("refused", 2)
    assert "refused      --retry-errors makes rows of an existing run again" in plan.to_text()


@pytest.mark.parametrize(
    ("on_exists", "outcome", "line"),
    [
        ("resume", ("refused", 2), "differs      input.uri: the run has"),
        ("fail", ("refused", 2), "differs      input.uri: the run has"),
        ("overwrite", ("new", 0), "shards       1: 0 done, 0 partly done, 1 untouched; 1 new"),
    ],
)
def test_another_run_in_this_place(tmp_path: Path, on_exists: str, outcome: tuple[str, int], line: str) -> None:
    _other_run(tmp_path)
    plan = plan_run(_config(tmp_path, on_exists))
    assert _outcome(plan) == outcome
    assert line in plan.to_text()


def test_places_that_cannot_hold_a_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        plan_run(_config(tmp_path))
    (tmp_path / "run").unlink()
    (tmp_path / "run" / "sub").mkdir(parents=True)
    (tmp_path / "run" / "sub" / "cat.jpg").write_text("mine")
    for on_exists in ("resume", "overwrite"):
        with pytest.raises(RunMismatchError, match="holds other files"):
            plan_run(_config(tmp_path, on_exists))
