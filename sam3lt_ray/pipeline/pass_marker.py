"""Which pass is going on, a file in ``pass/`` of the run directory, so that actors of an earlier one can notice.

When a pass ends while one of its actors is being restarted, Ray's request to end that actor is lost. It comes back with
nobody to work for and keeps its CPUs or its GPU, and the next pass waits for them for ever.

Each pass has a file of its own. So a driver that slept, and ends its pass long after another one has taken the run
over, removes its own mark and not the other's; and the other's beginning has told the sleeper's actors that they are
done.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sam3lt_ray.errors import Sam3ltError
from sam3lt_ray.storage.run_directory import write_json
from sam3lt_ray.storage.store import RunStore

PASS_PREFIX: Final = "pass"


@contextmanager
def marked_pass(store: RunStore) -> Iterator[str]:
    """Mark the time of a pass; yields its id. The caller holds the lease: marks of others are those of dead passes."""
    pass_id = uuid.uuid4().hex
    for item in store.list(PASS_PREFIX):
        store.delete(item.path)
    write_json(store, _path(pass_id), {"pass": pass_id})
    try:
        yield pass_id
    finally:
        store.delete(_path(pass_id))
        for item in store.list(notes_prefix(pass_id)):
            store.delete(item.path)


def is_current(store: RunStore, pass_id: str) -> bool:
    """Whether a pass is still going on; storage that does not answer is no reason to stop."""
    try:
        return store.exists(_path(pass_id))
    except (OSError, Sam3ltError):
        return True


def notes_prefix(pass_id: str) -> str:
    """Below it are notes of the pass's actors; they go with it."""
    return f"{PASS_PREFIX}/{pass_id}"


def _path(pass_id: str) -> str:
    return f"{PASS_PREFIX}/{pass_id}.json"
