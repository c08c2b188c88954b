"""How the actor pool is fitted to a cluster."""

from __future__ import annotations

import pytest
import ray

from sam3lt_ray.config.schema import ComputeSettings
from sam3lt_ray.errors import UsageError
from sam3lt_ray.pipeline.cluster import plan_actors


def _plan(monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], **settings: object) -> tuple[int, float, str]:
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    plan = plan_actors(ComputeSettings.model_validate(settings))
    assert plan.engine_threads >= 1
    assert plan.decode_threads >= 1
    reserved_cpus = plan.num_actors * plan.num_cpus
    assert reserved_cpus <= max(1.0, resources["CPU"]), "nothing would be left to read with"
    return plan.num_actors, plan.num_gpus, plan.device


@pytest.mark.parametrize(("cpus", "num_actors"), [(1, 1), (2, 1), (4, 1), (9, 2), (64, 15)])
def test_cpu_pool(monkeypatch: pytest.MonkeyPatch, cpus: float, num_actors: int) -> None:
    assert _plan(monkeypatch, {"CPU": cpus}) == (num_actors, 0.0, "cpu")


@pytest.mark.parametrize(
    ("resources", "settings", "expected"),
    [
        ({"CPU": 16, "GPU": 1}, {}, (1, 1.0, "cuda")),
        ({"CPU": 128, "GPU": 8}, {}, (8, 1.0, "cuda")),
        ({"CPU": 16, "GPU": 1}, {"gpus_per_actor": 0.5}, (2, 0.5, "cuda")),
        ({"CPU": 16, "GPU": 8}, {"actors": 3}, (3, 1.0, "cuda")),
        ({"CPU": 16, "GPU": 8}, {"device": "cpu"}, (3, 0.0, "cpu")),
    ],
)
def test_gpu_pool(
    monkeypatch: pytest.MonkeyPatch,
    resources: dict[str, float],
    settings: dict[str, object],
    expected: tuple[int, float, str],
) -> None:
    assert _plan(monkeypatch, resources, **settings) == expected


def test_a_gpu_that_is_not_there_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the cluster has 0 GPUs"):
        _plan(monkeypatch, {"CPU": 8}, device="cuda")
