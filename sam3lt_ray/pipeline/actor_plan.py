"""How many actors with what resources a cluster can carry."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import ray

from sam3lt_ray.config.schema import ComputeSettings
from sam3lt_ray.errors import UsageError
from sam3lt_ray.pipeline.ray_session import LOCAL_OBJECT_STORE_BYTES, LOCAL_RAY, address_of_ray, await_answer

CPUS_PER_CPU_ACTOR: Final = 4.0
# What a task that reads reserves. Where actors leave less than one of them, a run stands still.
READ_CPUS: Final = 0.2
# A task that commits reserves nothing. Ray Data gives CPUs to what comes first in the pipeline, and when it asks for
# more of them it loses what is left of a node beyond whole ones (2.60: AutoscalingCoordinator). Then there was none for
# commits on 2 cores, until all was read.
COMMIT_CPUS: Final = 0
# So planned actors leave three: a driver that sleeps keeps what Ray last leased to it, a task, which must not be the
# room that its successor needs to read, with two at a time.
ROOM_CPUS: Final = 3 * READ_CPUS
_SHARE_OF_ONE_CPU: Final = 1.0 - ROOM_CPUS
# Of a GPU actor whose node may be still to come, unless compute.cpus_per_actor says more: it fits beside every GPU, and
# into what Ray Data thinks is left for a pool that grows, which is never a whole node's CPUs.
_CPUS_OF_AN_AWAITED_ACTOR: Final = 1.0
_AS_MANY_AS_THERE_IS_ROOM_FOR: Final = 100_000
# The demo has 15 MB, published checkpoints have hundreds. The threads of a small model wait for each other whenever
# something else takes a core for a moment; processes with one thread each do not.
SMALL_CHECKPOINT_BYTES: Final = 100_000_000
# An actor with the demo checkpoint takes 0.6 GB; large images, and processes that read and commit, come on top.
MEMORY_PER_SMALL_ACTOR_BYTES: Final = 2_000_000_000
_MOST_RESERVED: Final = 0.9  # by one actor per core: many of them want more than one reader


@dataclass(frozen=True, slots=True)
class ActorResources:
    """What the pool of segment actors is made of.

    Attributes:
        num_actors: Size of the pool when a pass begins; actors that find no room yet are waited for.
        num_cpus: Logical CPUs each reserves.
        num_gpus: GPUs each reserves; 0 for CPU actors.
        device: "cuda" or "cpu".
        engine_threads: CPU threads the engine computes with.
        decode_threads: Threads that decode images ahead of the engine.
        max_actors: How far the pool grows when nodes join; None: it does not.
    """

    num_actors: int
    num_cpus: float
    num_gpus: float
    device: str
    engine_threads: int
    decode_threads: int
    max_actors: int | None = None

    @property
    def units_at_once(self) -> int:
        """Units that an actor labels side by side; on a GPU one begins while the one before is written down."""
        return 2 if self.device == "cuda" else 1

    def num_fitting(self, nodes: Sequence[Mapping[str, Any]]) -> int:
        """How many such actors the living nodes of a cluster can carry, as if nobody else used them.

        Args:
            nodes: As ``ray.nodes()`` tells them.
        """
        shares = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        living = [node["Resources"] for node in nodes if node["Alive"]]
        return sum(
            min(math.floor(node.get(kind, 0.0) / share + 1e-9) for kind, share in shares.items() if share)
            for node in living
        )


@dataclass(frozen=True, slots=True)
class _Nodes:
    """What some nodes of a cluster have.

    Attributes:
        node_cpus: Logical CPUs of each node that has any.
        gpus: GPUs of all of them.
        memory_bytes: What Ray counts as memory for workers, of all of them.
    """

    node_cpus: tuple[float, ...]
    gpus: float
    memory_bytes: float

    @classmethod
    def of(cls, resources: Sequence[Mapping[str, float]]) -> _Nodes:
        """Add up the resources of nodes."""
        return cls(
            # A cluster that grows on demand may have no CPU yet.
            node_cpus=tuple(node["CPU"] for node in resources if node.get("CPU")) or (1.0,),
            gpus=sum(node.get("GPU", 0.0) for node in resources),
            memory_bytes=sum(node.get("memory", 0.0) for node in resources),
        )

    @property
    def cpus(self) -> float:
        """Logical CPUs of all of them."""
        return sum(self.node_cpus)

    @property
    def free_cpus(self) -> float:
        """What actors may reserve together. One CPU per node is left, so that one node surely has room to read."""
        return _without_reading(self.cpus, len(self.node_cpus))

    @property
    def largest_actor_cpus(self) -> float:
        """What a single actor may reserve; a larger one would fit on no node, or leave nothing there."""
        return _without_reading(max(self.node_cpus), 1)


def _without_reading(cpus: float, num_nodes: int) -> float:
    return max(cpus - num_nodes, _SHARE_OF_ONE_CPU * cpus)


def plan_actors(settings: ComputeSettings, weight_bytes: int, *, may_grow: bool = False) -> ActorResources:
    """Fit the actor pool to the cluster as it is now.

    Args:
        settings: What is explicit there stays as it is.
        weight_bytes: Size of the checkpoint's weight files; on CPUs a small model gets other actors than a large one.
        may_grow: The cluster may get more nodes. Then as many GPU actors as compute.actors says are asked for, whether
            their GPUs are there or not; ``device: auto`` and ``actors: auto`` begin with what is there, and grow.

    Raises:
        UsageError: The configuration asks for a device the cluster does not have, or for actors that leave a cluster
            which stays as it is no room to read.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    planned = _fit_actors(settings, weight_bytes, nodes, may_grow)
    return _let_grow(planned, settings, nodes) if may_grow else planned


def plan_local_actors(settings: ComputeSettings, weight_bytes: int) -> ActorResources:
    """What :func:`plan_actors` would say on this machine alone, without a Ray that could be asked.

    Args:
        settings: As there.
        weight_bytes: As there.

    Raises:
        UsageError: As there.
    """
    node = _this_machine(settings.device, len(os.sched_getaffinity(0)))
    return _fit_actors(settings, weight_bytes, [node], may_grow=False)


def refuse_unusable_compute(settings: ComputeSettings, weight_bytes: int) -> None:
    """Refuse what would be refused when labeling begins, as far as that can be known without starting Ray.

    For a new run, before anything is written or discarded for it.

    Args:
        settings: As in :func:`plan_actors`.
        weight_bytes: As there.

    Raises:
        UsageError: The named cluster does not answer, or this machine has not what is asked of it.
    """
    if ray.is_initialized():
        plan_actors(settings, weight_bytes)
    elif (address := address_of_ray(settings)) != LOCAL_RAY:
        await_answer(address)
    elif settings.device == "cuda" or settings.cpus_per_actor != "auto":  # nothing else is ever refused
        # Ray counts the cores of the machine, also those that this process may not use.
        node = _this_machine(settings.device, os.cpu_count() or 1)
        _fit_actors(settings, weight_bytes, [node], may_grow=False)


def _this_machine(device: str, num_cpus: int) -> dict[str, float]:
    """Its resources, as Ray would list them; GPUs are those that torch sees, if any may be used."""
    meminfo = Path("/proc/meminfo").read_text()
    available = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
    return {
        "CPU": float(num_cpus),
        "GPU": 0.0 if device == "cpu" else float(_num_gpus()),
        "memory": float(max(0, available - LOCAL_OBJECT_STORE_BYTES)),
    }


def _num_gpus() -> int:
    from sam3lt_ray.engine.devices import num_cuda_devices  # torch is not for every driver

    return num_cuda_devices()


def _fit_actors(
    settings: ComputeSettings, weight_bytes: int, nodes: Sequence[Mapping[str, float]], may_grow: bool
) -> ActorResources:
    with_gpus = _Nodes.of([node for node in nodes if node.get("GPU")])
    if may_grow and settings.device == "cuda" and isinstance(settings.actors, int):
        missing = settings.actors * settings.gpus_per_actor - with_gpus.gpus
        if missing > 0:
            return _awaited_gpu_actors(settings, settings.actors)
    if settings.device == "cuda" and with_gpus.gpus < settings.gpus_per_actor:
        raise UsageError(
            f"compute.device is cuda and compute.gpus_per_actor is {settings.gpus_per_actor:g}, but the cluster has "
            f"{with_gpus.gpus:g} GPUs. Use compute.device: auto, or a cluster with GPUs; where an autoscaler brings "
            "them on demand, say for how many: compute.actors."
        )
    if settings.device != "cpu" and with_gpus.gpus >= settings.gpus_per_actor:
        return _gpu_actors(settings, with_gpus)
    automatic = settings.actors == "auto" and settings.cpus_per_actor == "auto"
    all_nodes = _Nodes.of(nodes)
    if automatic and weight_bytes <= SMALL_CHECKPOINT_BYTES:
        planned = _small_cpu_actors(settings, all_nodes)
    else:
        planned = _cpu_actors(settings, all_nodes)
    if settings.cpus_per_actor != "auto":
        if not may_grow:
            _refuse_to_stand_still(planned, all_nodes)
        return planned
    return replace(planned, num_cpus=_share_that_leaves_room(planned.num_cpus, planned.num_actors, all_nodes.node_cpus))


def _let_grow(
    planned: ActorResources, settings: ComputeSettings, nodes: Sequence[Mapping[str, float]]
) -> ActorResources:
    """The same pool, for a cluster that nodes may join: what an actor reserves must fit there, too."""
    beyond = settings.actors if settings.actors != "auto" else _AS_MANY_AS_THERE_IS_ROOM_FOR
    most = beyond if settings.max_actors is None else settings.max_actors
    begin = min(planned.num_actors, most)
    num_cpus = planned.num_cpus
    if settings.cpus_per_actor == "auto" and most > begin:
        if planned.device == "cuda":
            num_cpus = min(num_cpus, _CPUS_OF_AN_AWAITED_ACTOR)
        else:
            node_cpus = _Nodes.of(nodes).node_cpus
            num_cpus = _share_of_one_node(num_cpus, begin, node_cpus[0]) if len(node_cpus) == 1 else num_cpus
    return replace(planned, num_actors=begin, num_cpus=num_cpus, max_actors=most if most > begin else None)


def _refuse_to_stand_still(planned: ActorResources, nodes: _Nodes) -> None:
    """Ray would wait for ever for actors that fit nowhere, or for room to read beside those that hold everything."""
    wanted = planned.num_actors * planned.num_cpus
    if planned.num_cpus <= max(nodes.node_cpus) and nodes.cpus - wanted >= READ_CPUS - 1e-9:
        return
    raise UsageError(
        f"{planned.num_actors} actors with compute.cpus_per_actor {planned.num_cpus:g} each leave nothing of "
        f"{nodes.cpus:g} CPUs (the largest node has {max(nodes.node_cpus):g}), but reading needs {READ_CPUS:g}. Use a "
        "smaller compute.cpus_per_actor, fewer compute.actors, or leave both to auto."
    )


def _share_of_one_node(share: float, num_actors: int, cpus: float) -> float:
    """A share of which just these actors fit on a node like this one, beside reading and committing."""
    fitting = (cpus - ROOM_CPUS) / num_actors
    return fitting if fitting * (num_actors + 1) > cpus else share


def _share_that_leaves_room(share: float, num_actors: int, node_cpus: Sequence[float]) -> float:
    """What each actor should reserve so that however they come to lie, every node keeps the room to read.

    When a node is lost, Ray starts its actors again on the others. If they find room there beside those that were
    planned, they take what reading needs, and the run stands still. So each reserves a share of which
    as many as fit on a node leave enough.
    """
    if len(node_cpus) < 2:
        return share

    def leaves_room(candidate: float) -> bool:
        fit = [math.floor(cpus / candidate + 1e-9) for cpus in node_cpus]
        room = ROOM_CPUS - 1e-9
        return sum(fit) >= num_actors and all(
            cpus - count * candidate >= room for cpus, count in zip(node_cpus, fit, strict=True)
        )

    others = {
        (cpus - ROOM_CPUS) / count
        for cpus in set(node_cpus)
        for count in range(1, math.floor(cpus / share + 1e-9) + 2)
        if cpus >= 1
    }
    fitting = [candidate for candidate in (share, *sorted(others)) if leaves_room(candidate)]
    # The nearest one. Nodes of one CPU know none, nor do some mixtures of sizes; there it stays as it is.
    return min(fitting, key=lambda candidate: abs(candidate - share), default=share)


def _awaited_gpu_actors(settings: ComputeSettings, num_actors: int) -> ActorResources:
    """Actors for nodes that nobody has seen yet: Ray's autoscaler brings what they ask for, one by one."""
    num_cpus = _CPUS_OF_AN_AWAITED_ACTOR if settings.cpus_per_actor == "auto" else settings.cpus_per_actor
    threads = max(1, int(num_cpus))
    return ActorResources(
        num_actors, num_cpus, settings.gpus_per_actor, "cuda", threads, _decode_threads(settings, threads)
    )


def _gpu_actors(settings: ComputeSettings, nodes: _Nodes) -> ActorResources:
    num_actors = int(nodes.gpus // settings.gpus_per_actor) if settings.actors == "auto" else settings.actors
    share = min(nodes.free_cpus / num_actors, nodes.largest_actor_cpus)
    fair_share = float(math.floor(share)) or share  # whole CPUs, where there is one for each
    num_cpus = fair_share if settings.cpus_per_actor == "auto" else settings.cpus_per_actor
    threads = max(1, int(num_cpus))
    return ActorResources(
        num_actors, num_cpus, settings.gpus_per_actor, "cuda", threads, _decode_threads(settings, threads)
    )


def _small_cpu_actors(settings: ComputeSettings, nodes: _Nodes) -> ActorResources:
    """One actor per core with one thread each; where memory is short fewer, which then share the cores."""
    num_actors = max(1, int(min(nodes.cpus, nodes.memory_bytes // MEMORY_PER_SMALL_ACTOR_BYTES)))
    free = min(nodes.free_cpus, _MOST_RESERVED * nodes.cpus)
    num_cpus = min(free / num_actors, nodes.largest_actor_cpus)
    threads = max(1, int(nodes.cpus // num_actors))
    return ActorResources(num_actors, num_cpus, 0.0, "cpu", threads, _decode_threads(settings, 1))


def _cpu_actors(settings: ComputeSettings, nodes: _Nodes) -> ActorResources:
    """On a small machine one actor uses all cores; reading, decoding and committing are light beside the model."""
    free = nodes.free_cpus
    share = free if settings.actors == "auto" else free / settings.actors  # so that something is left to read with
    fair_share = min(CPUS_PER_CPU_ACTOR, share, nodes.largest_actor_cpus)
    num_cpus = fair_share if settings.cpus_per_actor == "auto" else settings.cpus_per_actor
    num_actors = max(1, int(free // num_cpus)) if settings.actors == "auto" else settings.actors
    threads = max(1, int(num_cpus), int(nodes.cpus // num_actors))
    return ActorResources(num_actors, num_cpus, 0.0, "cpu", threads, _decode_threads(settings, 1))


def _decode_threads(settings: ComputeSettings, automatic: int) -> int:
    return automatic if settings.decode_threads == "auto" else settings.decode_threads
