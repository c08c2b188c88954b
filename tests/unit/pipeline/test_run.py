"""A start that cannot label anything: nothing is written for it, and no run is discarded for it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import RetryableRunError, UsageError
from sam3lt_ray.pipeline import actor_plan, ray_session
from sam3lt_ray.pipeline import run as module
from sam3lt_ray.pipeline.run import label_run
from tests.standin import plain_image, write_tar


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("Ray is not to be started")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray_session, "_PAUSES_S", ())
    monkeypatch.setattr(actor_plan, "_num_gpus", lambda: 0)


def _config(folder: Path, compute: Mapping[str, Any]) -> Config:
    if not (folder / "shards").exists():
        write_tar(folder / "shards" / "a.tar", [("0.png", plain_image((9, 90, 200), (40, 30)))])
    return Config.model_validate(
        {
            "run": {"output": str(folder / "run")},
            "input": {"format": "webdataset", "uri": str(folder / "shards")},
            "vocabulary": ["red circle"],
            "compute": compute,
        }
    )


def _leave_a_run(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[Path, bytes]:
    """A start that is stopped when all is written and labeling would begin; what it leaves."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "RunSession", stop)
        with pytest.raises(RetryableRunError, match="Stopped by a signal"):
            label_run(config)
    return _files(Path(config.run.output))


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


UNUSABLE = [
    ({"device": "cuda"}, "the cluster has 0 GPUs"),
    ({"device": "cpu", "actors": 2, "cpus_per_actor": 5_000}, "leave nothing of"),
    ({"ray_address": f"127.0.0.1:{_free_port()}"}, "No Ray cluster answers"),
]


@pytest.mark.parametrize(("compute", "said"), UNUSABLE)
def test_a_new_run_that_cannot_be_labeled_leaves_nothing(tmp_path: Path, compute: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        label_run(_config(tmp_path, compute))
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_is_kept_until_the_new_one_can_be_labeled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = _leave_a_run(_config(tmp_path, {"device": "cpu"}), monkeypatch)
    assert tmp_path / "run" / "run.json" in there
    for compute, said in UNUSABLE:
        with pytest.raises(UsageError, match=said):
            label_run(_config(tmp_path, compute), on_exists="overwrite")
        assert _files(tmp_path / "run") == there
    # One that goes on may have nothing to do, and needs no device then.
    begun = []
    monkeypatch.setattr(module, "RunSession", lambda *_: begun.append(True) or _NothingMissing())
    label_run(_config(tmp_path, {"device": "cuda"}))
    assert begun == [True]


class _NothingMissing:
    def label_missing(self) -> None:
        return None
