"""Counts how often an actor's process died while it loaded the model, so that this comes to an end.

Ray restarts an actor whose process dies as often as it takes: a pass must outlive any number of images that kill their
process, and of nodes that leave. A worker that dies before it can begin (too little memory for the checkpoint, a broken
GPU driver) would be restarted for ever. Only what it leaves behind can tell its successor: a note in the run directory,
which is gone once the model is loaded.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sam3lt_ray.errors import RunError, Sam3ltError
from sam3lt_ray.pipeline.pass_marker import notes_prefix
from sam3lt_ray.storage.run_directory import write_json
from sam3lt_ray.storage.store import RunStore

MAX_DEATHS: Final = 4  # in a row, of one actor


@contextmanager
def noted_start(store: RunStore, pass_id: str, actor: str) -> Iterator[None]:
    """Around the loading of the model.

    Args:
        store: The run directory. Where it does not answer nothing is counted.
        pass_id: The pass.
        actor: Ray's id of the actor, which restarts keep.

    Raises:
        RunError: The actor has died too often.
    """
    path = f"{notes_prefix(pass_id)}/{actor}.json"
    deaths = _deaths(store, path)
    if deaths >= MAX_DEATHS:
        raise RunError(
            f"A worker died {deaths} times in a row while it loaded the model; it was to be started once more on "
            f"{socket.gethostname()}. There may be too little memory for the checkpoint, or a GPU driver that does not "
            "fit; Ray's logs may say more. What was labeled is kept."
        )
    with suppress(OSError, Sam3ltError):
        write_json(store, path, {"starts": deaths + 1})
    yield
    with suppress(OSError, Sam3ltError):
        store.delete(path)


def _deaths(store: RunStore, path: str) -> int:
    with suppress(OSError, Sam3ltError, ValueError, KeyError, TypeError):
        if store.exists(path):
            return int(json.loads(store.read(path))["starts"])
    return 0
