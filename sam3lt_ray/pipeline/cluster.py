"""Joining or starting Ray, and how many actors with what resources it can carry."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import ray

from sam3lt_ray.config.schema import ComputeSettings
from sam3lt_ray.errors import UsageError
from sam3lt_ray.pipeline.native_stderr import quiet_native_stderr

# A Ray that we start ourselves holds the units in flight and nothing else.
LOCAL_OBJECT_STORE_BYTES: Final = 1_000_000_000
CPUS_PER_CPU_ACTOR: Final = 4.0
_READ_AND_COMMIT_CPUS: Final = 1.0


@dataclass(frozen=True, slots=True)
class ActorResources:
    """What the pool of segment actors is made of.

    Attributes:
        num_actors: Size of the pool.
        num_cpus: Logical CPUs each reserves.
        num_gpus: GPUs each reserves; 0 for CPU actors.
        device: "cuda" or "cpu".
        engine_threads: CPU threads the engine computes with.
        decode_threads: Threads that decode images ahead of the engine.
    """

    num_actors: int
    num_cpus: float
    num_gpus: float
    device: str
    engine_threads: int
    decode_threads: int


@contextmanager
def ray_session(settings: ComputeSettings, *, verbose: bool = False) -> Iterator[None]:
    """Ray for the time of a run: the one this process has joined, a cluster that was named, or a local one.

    A cluster is named by ``compute.ray_address`` or by RAY_ADDRESS, which ``ray job submit`` sets ("auto" finds the one
    this machine belongs to). None is ever guessed: on a shared machine that would be somebody else's. A local Ray is
    stopped at the end; one that was found is left running.

    Raises:
        UsageError: The named cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.ERROR
    # Ray Data reports every lost block with a traceback; what is missing is told at the end, with its reason.
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)
    with nullcontext() if verbose else quiet_native_stderr():
        _connect(settings.ray_address or os.environ.get("RAY_ADDRESS") or "local", level, log_to_driver=verbose)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str, level: int, *, log_to_driver: bool) -> None:
    if address == "local":
        ray.init(
            address="local",
            log_to_driver=log_to_driver,
            logging_level=level,
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        )
        return
    try:
        ray.init(address=address, log_to_driver=log_to_driver, logging_level=level)
    except ConnectionError as error:
        raise UsageError(
            f"No Ray cluster answers at {address!r} ({error}). Check compute.ray_address or RAY_ADDRESS, or unset both "
            "to run on this machine alone."
        ) from error


def plan_actors(settings: ComputeSettings) -> ActorResources:
    """Fit the actor pool to the cluster as it is now.

    Raises:
        UsageError: The configuration asks for a device the cluster does not have.
    """
    available = ray.cluster_resources()
    gpus, cpus = available.get("GPU", 0.0), available.get("CPU", 1.0)
    if settings.device == "cuda" and gpus < settings.gpus_per_actor:
        raise UsageError(
            f"compute.device is cuda and compute.gpus_per_actor is {settings.gpus_per_actor:g}, but the cluster has "
            f"{gpus:g} GPUs. Use compute.device: auto, or a cluster with GPUs."
        )
    if settings.device != "cpu" and gpus >= settings.gpus_per_actor:
        return _gpu_actors(settings, gpus, cpus)
    return _cpu_actors(settings, cpus)


def _gpu_actors(settings: ComputeSettings, gpus: float, cpus: float) -> ActorResources:
    num_actors = int(gpus // settings.gpus_per_actor) if settings.actors == "auto" else settings.actors
    fair_share = max(1.0, (cpus - _READ_AND_COMMIT_CPUS) // num_actors)
    num_cpus = fair_share if settings.cpus_per_actor == "auto" else settings.cpus_per_actor
    threads = max(1, int(num_cpus))
    return ActorResources(
        num_actors, num_cpus, settings.gpus_per_actor, "cuda", threads, _decode_threads(settings, threads)
    )


def _cpu_actors(settings: ComputeSettings, cpus: float) -> ActorResources:
    """On a small machine one actor uses all cores; reading, decoding and committing are light beside the model."""
    free = max(1.0, cpus - _READ_AND_COMMIT_CPUS)
    share = free if settings.actors == "auto" else free / settings.actors  # so that something is left to read with
    num_cpus = min(CPUS_PER_CPU_ACTOR, share) if settings.cpus_per_actor == "auto" else settings.cpus_per_actor
    num_actors = max(1, int(free // num_cpus)) if settings.actors == "auto" else settings.actors
    threads = max(1, int(num_cpus), int(cpus // num_actors))
    return ActorResources(num_actors, num_cpus, 0.0, "cpu", threads, _decode_threads(settings, 1))


def _decode_threads(settings: ComputeSettings, automatic: int) -> int:
    return automatic if settings.decode_threads == "auto" else settings.decode_threads
