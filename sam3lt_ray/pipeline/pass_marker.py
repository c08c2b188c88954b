"""Which pass is going on, in ``pass.json`` of the run directory, so that actors of an earlier one can notice.

When a pass ends while one of its actors is being restarted, Ray's request to end that actor is lost. It comes back with
nobody to work for and keeps its CPUs or its GPU, and the next pass waits for them for ever.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sam3lt_ray.errors import Sam3ltError
from sam3lt_ray.storage.run_directory import read_json, write_json
from sam3lt_ray.storage.store import RunStore

PASS_PATH: Final = "pass.json"


@contextmanager
def marked_pass(store: RunStore) -> Iterator[str]:
    """Mark the time of a pass; yields its id."""
    pass_id = uuid.uuid4().hex
    write_json(store, PASS_PATH, {"pass": pass_id})
    try:
        yield pass_id
    finally:
        store.delete(PASS_PATH)


def is_current(store: RunStore, pass_id: str) -> bool:
    """Whether a pass is still going on; storage that does not answer is no reason to stop."""
    try:
        marker = read_json(store, PASS_PATH)
    except (OSError, Sam3ltError):
        return True
    return marker is not None and marker.get("pass") == pass_id
