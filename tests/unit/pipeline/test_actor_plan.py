"""How the actor pool is fitted to a cluster."""

from __future__ import annotations

import pytest
import ray

from sam3lt_ray.config.schema import ComputeSettings
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.errors import UsageError
from sam3lt_ray.pipeline.actor_plan import (
    MEMORY_PER_SMALL_ACTOR_BYTES,
    ROOM_CPUS,
    SMALL_CHECKPOINT_BYTES,
    ActorResources,
    plan_actors,
)

LARGE, SMALL = SMALL_CHECKPOINT_BYTES + 1, SMALL_CHECKPOINT_BYTES
Node = dict[str, float]
MUCH_MEMORY = 1e12


def _plan(
    monkeypatch: pytest.MonkeyPatch, *nodes: Node, weight_bytes: int = LARGE, **settings: object
) -> ActorResources:
    """A plan that leaves every kind of task its place, however the actors are spread over the nodes."""
    listed = [{"Alive": True, "Resources": {"memory": MUCH_MEMORY, **node}} for node in nodes]
    gone = {"Alive": False, "Resources": {"CPU": 512.0, "GPU": 64.0, "memory": MUCH_MEMORY}}
    monkeypatch.setattr(ray, "nodes", lambda: [gone, *listed])
    plan = plan_actors(ComputeSettings.model_validate(settings), weight_bytes)
    assert plan.engine_threads >= 1
    assert plan.decode_threads >= 1
    cpus = [node["CPU"] for node in nodes if "CPU" in node]
    reserved = plan.num_actors * plan.num_cpus
    assert (sum(cpus) - reserved) / len(cpus) >= ROOM_CPUS - 1e-9, "nothing would be left to read with"
    assert reserved <= max(1.0, sum(cpus) - 1)
    assert plan.num_cpus <= max(cpus), "it would fit on no node"
    return plan


@pytest.mark.parametrize(
    ("cpus", "num_actors", "num_cpus", "threads"),
    [(1, 1, 0.4, 1), (2, 1, 1, 2), (4, 1, 3, 4), (9, 2, 4, 4), (16, 3, 4, 5), (64, 15, 4, 4)],
)
def test_a_large_model_gets_actors_of_several_cores(
    monkeypatch: pytest.MonkeyPatch, cpus: float, num_actors: int, num_cpus: float, threads: int
) -> None:
    plan = _plan(monkeypatch, {"CPU": cpus})
    assert (plan.num_actors, plan.num_cpus, plan.engine_threads) == (num_actors, pytest.approx(num_cpus), threads)
    assert (plan.num_gpus, plan.device) == (0.0, "cpu")


@pytest.mark.parametrize(
    ("cpus", "num_cpus"), [(1, 0.4), (2, 0.5), (4, 0.75), (8, 0.875), (16, 0.9), (64, 0.9), (200, 0.9)]
)
def test_a_small_model_gets_an_actor_per_core(monkeypatch: pytest.MonkeyPatch, cpus: float, num_cpus: float) -> None:
    plan = _plan(monkeypatch, {"CPU": cpus}, weight_bytes=SMALL)
    assert (plan.num_actors, plan.engine_threads, plan.decode_threads) == (cpus, 1, 1)
    assert plan.num_cpus == pytest.approx(num_cpus)
    assert (plan.num_gpus, plan.device) == (0.0, "cpu")


def test_the_demo_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = resolve_checkpoint("demo").weight_bytes
    assert _plan(monkeypatch, {"CPU": 2}, weight_bytes=demo).num_actors == 2


@pytest.mark.parametrize(
    ("cpus", "room_for", "num_actors", "threads"), [(64, 20, 20, 3), (8, 4, 4, 2), (8, 0.5, 1, 8), (2, 3, 2, 1)]
)
def test_memory_limits_the_actors_of_a_small_model_and_they_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cpus: float, room_for: float, num_actors: int, threads: int
) -> None:
    memory = room_for * MEMORY_PER_SMALL_ACTOR_BYTES
    plan = _plan(monkeypatch, {"CPU": cpus, "memory": memory}, weight_bytes=SMALL)
    assert (plan.num_actors, plan.engine_threads) == (num_actors, threads)
    assert _plan(monkeypatch, {"CPU": cpus, "memory": memory}) == _plan(monkeypatch, {"CPU": cpus})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"actors": 1}, (1, 3.0, 4)),
        ({"actors": 3}, (3, 1.0, 1)),
        ({"cpus_per_actor": 1.5}, (2, 1.5, 2)),
        ({"actors": 2, "cpus_per_actor": 0.5}, (2, 0.5, 2)),
    ],
)
def test_explicit_settings_win(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], expected: tuple[int, float, int]
) -> None:
    for weight_bytes in (SMALL, LARGE):
        plan = _plan(monkeypatch, {"CPU": 4}, weight_bytes=weight_bytes, **settings)
        assert (plan.num_actors, plan.num_cpus, plan.engine_threads) == expected


@pytest.mark.parametrize(
    ("nodes", "of_large", "of_small"),
    [
        ([4, 4, 4, 4], 4, 16),
        ([2, 2], 2, 4),
        ([1, 1, 1, 1], 4, 4),
        ([16, 16], 7, 32),
        ([2, 64], 16, 66),
    ],
)
def test_every_node_counts(monkeypatch: pytest.MonkeyPatch, nodes: list[float], of_large: int, of_small: int) -> None:
    parts: list[Node] = [{"CPU": cpus} for cpus in nodes]
    assert _plan(monkeypatch, *parts, {"GPU": 0.0}).num_actors == of_large
    assert _plan(monkeypatch, *parts, weight_bytes=SMALL).num_actors == of_small
    assert _plan(monkeypatch, *parts, actors=3).num_actors == 3


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([{"CPU": 16, "GPU": 1}], {}, (1, 1.0, 15.0)),
        ([{"CPU": 128, "GPU": 8}], {}, (8, 1.0, 15.0)),
        ([{"CPU": 128, "GPU": 8}] * 3, {}, (24, 1.0, 15.0)),
        ([{"CPU": 16, "GPU": 1}], {"gpus_per_actor": 0.5}, (2, 0.5, 7.0)),
        ([{"CPU": 16, "GPU": 8}], {"actors": 3}, (3, 1.0, 5.0)),
        ([{"CPU": 1, "GPU": 1}], {}, (1, 1.0, 0.4)),
        ([{"CPU": 8, "GPU": 8}], {}, (8, 1.0, 0.875)),
        ([{"CPU": 64}, {"CPU": 8, "GPU": 1}], {}, (1, 1.0, 7.0)),
        ([{"CPU": 16, "GPU": 1}] * 2, {"actors": 1}, (1, 1.0, 15.0)),
    ],
)
def test_gpu_pool(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[Node],
    settings: dict[str, object],
    expected: tuple[int, float, float],
) -> None:
    for weight_bytes in (SMALL, LARGE):
        plan = _plan(monkeypatch, *nodes, weight_bytes=weight_bytes, **settings)
        assert (plan.num_actors, plan.num_gpus, plan.num_cpus) == (*expected[:2], pytest.approx(expected[2]))
        assert plan.device == "cuda"


def test_gpus_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(monkeypatch, {"CPU": 16, "GPU": 8}, device="cpu")
    assert (plan.num_actors, plan.num_gpus, plan.device) == (3, 0.0, "cpu")


def test_a_gpu_that_is_not_there_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the cluster has 0 GPUs"):
        _plan(monkeypatch, {"CPU": 8}, device="cuda")


@pytest.mark.parametrize("nodes", [[], [{"CPU": 4.0, "GPU": 1.0}]])
def test_gpus_that_an_autoscaler_has_yet_to_bring_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node]
) -> None:
    listed = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    settings = ComputeSettings(device="cuda", actors=8, cpus_per_actor=3.0)
    plan = plan_actors(settings, LARGE, may_grow=True)
    assert plan == ActorResources(8, 3.0, 1.0, "cuda", engine_threads=3, decode_threads=3)
    assert plan_actors(settings.model_copy(update={"cpus_per_actor": "auto"}), LARGE, may_grow=True).num_cpus == 1.0
    if not nodes:  # nothing says how many, or that they are to have GPUs, or a Ray that cannot grow
        with pytest.raises(UsageError, match=r"compute\.actors"):
            plan_actors(ComputeSettings(device="cuda"), LARGE, may_grow=True)
        with pytest.raises(UsageError, match="has 0 GPUs"):
            plan_actors(settings, LARGE)
        assert plan_actors(ComputeSettings(actors=8), LARGE, may_grow=True).device == "cpu"


def test_a_cluster_that_has_all_its_gpus_is_planned_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}])
    settings = ComputeSettings(device="cuda", actors=2)
    assert plan_actors(settings, LARGE, may_grow=True) == plan_actors(settings, LARGE)


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        # Actors to begin with, how far they grow, CPUs each.
        ([{"CPU": 16, "GPU": 1}] * 2, {}, (2, 100_000, 1.0)),
        ([{"CPU": 16, "GPU": 1}] * 2, {"max_actors": 5}, (2, 5, 1.0)),
        ([{"CPU": 16, "GPU": 1}] * 2, {"max_actors": 2}, (2, None, 15.0)),
        ([{"CPU": 16, "GPU": 1}] * 2, {"max_actors": 1}, (1, None, 15.0)),
        ([{"CPU": 16, "GPU": 1}] * 2, {"actors": 2}, (2, None, 15.0)),
        ([{"CPU": 16, "GPU": 1}] * 2, {"actors": 2, "max_actors": 3}, (2, 3, 1.0)),
        ([{"CPU": 16, "GPU": 1}] * 2, {"cpus_per_actor": 9.0}, (2, 100_000, 9.0)),
        ([{"CPU": 16, "GPU": 1}] * 2, {"gpus_per_actor": 0.5}, (4, 100_000, 1.0)),
        ([{"CPU": 1}], {}, (1, 100_000, 0.4)),
        ([{"CPU": 2}], {}, (1, 100_000, 1.4)),
        ([{"CPU": 16}], {}, (3, 100_000, 15.4 / 3)),
    ],
)
def test_a_pool_grows_where_nodes_may_join(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[Node],
    settings: dict[str, object],
    expected: tuple[int, int | None, float],
) -> None:
    listed = [{"Alive": True, "Resources": {"memory": MUCH_MEMORY, **node}} for node in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    asked = ComputeSettings.model_validate(settings)
    plan = plan_actors(asked, LARGE, may_grow=True)
    assert (plan.num_actors, plan.max_actors) == expected[:2]
    assert plan.num_cpus == pytest.approx(expected[2])
    assert plan_actors(asked, LARGE).max_actors is None  # a Ray of this machine alone stays as it is


def test_a_node_that_joins_is_not_filled_to_the_brim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0, "memory": MUCH_MEMORY}}])
    plan = plan_actors(ComputeSettings(), SMALL, may_grow=True)
    as_many_as_fit = (2 + 1e-6) // plan.num_cpus
    assert (plan.num_actors, as_many_as_fit) == (2, 2)
    assert 2 - as_many_as_fit * plan.num_cpus >= ROOM_CPUS - 1e-6


@pytest.mark.parametrize(
    ("cpus", "settings"),
    [
        (2, {"actors": 2, "cpus_per_actor": 1.0}),  # nothing is left to read with
        (4, {"cpus_per_actor": 4.0}),
        (4, {"actors": 1, "cpus_per_actor": 5.0}),  # fits nowhere
    ],
)
def test_a_pool_that_could_never_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, cpus: float, settings: dict[str, object]
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": cpus, "memory": MUCH_MEMORY}}])
    asked = ComputeSettings.model_validate(settings)
    with pytest.raises(UsageError, match=r"compute\.cpus_per_actor"):
        plan_actors(asked, LARGE)
    plan_actors(asked, LARGE, may_grow=True)  # a larger node may come


def test_a_cluster_that_has_yet_to_grow_counts_as_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [])
    assert plan_actors(ComputeSettings(), SMALL).num_actors == 1


@pytest.mark.parametrize("weight_bytes", [SMALL, LARGE])
@pytest.mark.parametrize("nodes", [[2, 2], [4, 4], [8, 8, 8], [16] * 20, [16, 64, 64]])
def test_actors_of_a_lost_node_find_no_room_that_the_others_need(
    monkeypatch: pytest.MonkeyPatch, nodes: list[float], weight_bytes: int
) -> None:
    plan = _plan(monkeypatch, *({"CPU": cpus} for cpus in nodes), weight_bytes=weight_bytes)
    for cpus in nodes:
        as_many_as_fit = (cpus + 1e-6) // plan.num_cpus
        assert cpus - as_many_as_fit * plan.num_cpus >= ROOM_CPUS - 1e-6
    assert sum((cpus + 1e-6) // plan.num_cpus for cpus in nodes) >= plan.num_actors


def test_living_nodes_carry_as_many_actors_as_their_gpus_and_cpus_allow() -> None:
    def node(alive: bool, **resources: float) -> dict[str, object]:
        return {"Alive": alive, "Resources": resources}

    nodes = [node(True, CPU=8.0), node(True, CPU=4.0, GPU=2.0), node(True, CPU=1.0, GPU=4.0), node(False, GPU=8.0)]
    whole, half = ActorResources(4, 1.0, 1.0, "cuda", 1, 1), ActorResources(4, 0.5, 0.5, "cuda", 1, 1)
    assert (whole.num_fitting(nodes), half.num_fitting(nodes), whole.num_fitting([])) == (2 + 1, 4 + 2, 0)
    assert ActorResources(4, 0.35, 0.0, "cpu", 1, 1).num_fitting([node(True, CPU=0.7), node(True)]) == 2
