"""Joining a Ray cluster, or starting Ray on this machine."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import ray

from sam3lt_ray.config.schema import ComputeSettings
from sam3lt_ray.errors import UsageError
from sam3lt_ray.logs import LogFormat
from sam3lt_ray.pipeline.native_stderr import quiet_native_stderr

# A Ray that we start ourselves holds the units in flight and nothing else.
LOCAL_OBJECT_STORE_BYTES: Final = 1_000_000_000
# Names in Ray 2.60 of those that end by themselves. Its "Prefetcher" does not: it waits for work that never comes.
_THREADS_OF_RAY_DATA: Final = ("iter_threaded", "StreamingExecutor", "ray-data-metadata-prefetch")
_THREADS_END_WITHIN_S: Final = 5.0  # within the 30 s that a scheduler leaves, with all else that is to be done


@contextmanager
def ray_session(settings: ComputeSettings, *, verbose: bool = False, log_format: LogFormat = "text") -> Iterator[bool]:
    """Ray for the time of a run: the one this process has joined, a cluster that was named, or a local one.

    A cluster is named by ``compute.ray_address`` or by RAY_ADDRESS, which ``ray job submit`` sets ("auto" finds the one
    this machine belongs to). None is ever guessed: on a shared machine that would be somebody else's. A local Ray is
    stopped at the end; one that was found is left running.

    Args:
        settings: Which cluster.
        verbose: Let Ray's own lines through.
        log_format: "json": workers log one JSON object per line, with run, shard, and Ray's ids of node and actor.

    Yields:
        Whether it is a cluster that was named, which may grow; a local Ray never does.

    Raises:
        UsageError: The named cluster does not answer.
    """
    if ray.is_initialized():
        yield False
        return
    level = logging.INFO if verbose else logging.ERROR
    # Ray Data reports every lost block with a traceback; what is missing is told at the end, with its reason.
    logging.getLogger("ray.data").setLevel(logging.INFO if verbose else logging.CRITICAL)
    with nullcontext() if verbose else quiet_native_stderr():
        address = settings.ray_address or os.environ.get("RAY_ADDRESS") or "local"
        _connect(address, level, log_to_driver=verbose, log_format=log_format)
        try:
            yield address != "local"
        finally:
            _await_threads_of_ray_data()
            ray.shutdown()


def _await_threads_of_ray_data() -> None:
    """Let what a pass that was ended early leaves behind come to its end.

    Such a thread notices within a tenth of a second. One that asks Ray's core for something after the shutdown makes it
    leave the process, past Python, with exit code 1, whatever the code was to be.
    """
    deadline_s = time.monotonic() + _THREADS_END_WITHIN_S
    for thread in threading.enumerate():
        if thread.name.startswith(_THREADS_OF_RAY_DATA):
            thread.join(timeout=max(0.0, deadline_s - time.monotonic()))


def _connect(address: str, level: int, *, log_to_driver: bool, log_format: LogFormat) -> None:
    logging_config = ray.LoggingConfig(encoding="JSON") if log_format == "json" else None
    if address == "local":
        ray.init(
            address="local",
            log_to_driver=log_to_driver,
            logging_level=level,
            logging_config=logging_config,
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        )
        return
    try:
        ray.init(address=address, log_to_driver=log_to_driver, logging_level=level, logging_config=logging_config)
    except ConnectionError as error:
        raise UsageError(
            f"No Ray cluster answers at {address!r} ({error}). Check compute.ray_address or RAY_ADDRESS, or unset both "
            "to run on this machine alone."
        ) from error
