"""Joining a Ray cluster, or starting Ray on this machine."""

from __future__ import annotations

import logging
import os
import re
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
from sam3lt_ray.pipeline.ray_watch import Endpoint, takes_connections

# A Ray that we start ourselves holds the units in flight and nothing else.
LOCAL_OBJECT_STORE_BYTES: Final = 1_000_000_000
LOCAL_RAY: Final = "local"  # in place of an address
# Names in Ray 2.60 of those that end by themselves. Its "Prefetcher" does not: it waits for work that never comes.
_THREADS_OF_RAY_DATA: Final = ("iter_threaded", "StreamingExecutor", "ray-data-metadata-prefetch")
_THREADS_END_WITHIN_S: Final = 5.0  # within the 30 s that a scheduler leaves, with all else that is to be done

_HOST_AND_PORT: Final = re.compile(r"(?P<host>[^/@\[\]:]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d+)")
_NUM_PORTS: Final = 2**16
_PAUSES_S: Final = (0.5, 1.0, 2.0, 3.0, 3.5)  # a head that is just starting


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
        address = address_of_ray(settings)
        _connect(address, level, log_to_driver=verbose, log_format=log_format)
        try:
            yield address != LOCAL_RAY
        finally:
            _await_threads_of_ray_data()
            ray.shutdown()


def address_of_ray(settings: ComputeSettings) -> str:
    """The cluster that is named, or :data:`LOCAL_RAY`."""
    return settings.ray_address or os.environ.get("RAY_ADDRESS") or LOCAL_RAY


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
    if address == LOCAL_RAY:
        ray.init(
            address=LOCAL_RAY,
            log_to_driver=log_to_driver,
            logging_level=level,
            logging_config=logging_config,
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        )
        return
    await_answer(address)
    try:
        ray.init(address=address, log_to_driver=log_to_driver, logging_level=level, logging_config=logging_config)
    except ConnectionError as error:
        raise _no_answer(address, str(error)) from error


def await_answer(address: str) -> None:
    """Ask a while whether anybody listens: Ray itself waits for a wrong address for many minutes, deaf to signals.

    Raises:
        UsageError: Nobody does. Addresses that are not host:port ("auto", ray://...) are not looked at.
    """
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None:
        return
    gcs = Endpoint("the gcs", match["host"].strip("[]"), int(match["port"]), patience_s=0.0)
    for pause_s in (*_PAUSES_S, None):
        if gcs.port < _NUM_PORTS and takes_connections(gcs):
            return
        if pause_s is not None:
            time.sleep(pause_s)
    raise _no_answer(address, "nobody listens there")


def _no_answer(address: str, why: str) -> UsageError:
    return UsageError(
        f"No Ray cluster answers at {address!r} ({why}). Check compute.ray_address or RAY_ADDRESS, or unset both to "
        "run on this machine alone."
    )
