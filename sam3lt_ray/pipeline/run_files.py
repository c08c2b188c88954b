"""The files a start writes and removes before it labels, and when it must not start."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from sam3lt_ray.config.schema import OnExists
from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.pipeline.own_files import is_own
from sam3lt_ray.pipeline.prepare import PreparedRun, describe_model
from sam3lt_ray.pipeline.summary import package_versions
from sam3lt_ray.progress import ProgressListener
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import find_discarded, new_generation
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.run_directory import (
    RUN_PATH,
    VOCABULARY_PATH,
    create_or_verify,
    encode_json,
    read_json,
    refuse_differences,
)
from sam3lt_ray.storage.snapshot import write_snapshot
from sam3lt_ray.storage.store import RunStore, probe_conditional_put
from sam3lt_ray.vocabulary.history import history_json

_MAX_NAMED = 3


def apply_policy(prepared: PreparedRun, policy: OnExists, *, retry_errors: bool = False) -> None:
    """Refuse a start that ``run.on_exists`` or the run's own settings forbid; writes nothing.

    Raises:
        RunMismatchError: The run exists and must not, or it was made with other settings that change labels, or there
            are no rows that could be tried again.
    """
    if retry_errors:
        _refuse_retry(prepared, policy)
    if policy == "overwrite":
        return
    if policy == "fail" and prepared.exists:
        raise RunMismatchError(
            f"{prepared.store.uri} holds a run already and run.on_exists is fail. Choose another run.output, or "
            "--on-exists resume to continue it."
        )
    refuse_differences(prepared.store, prepared.differences)


def _refuse_retry(prepared: PreparedRun, policy: OnExists) -> None:
    if policy == "overwrite" or not prepared.exists:
        raise RunMismatchError(
            f"--retry-errors makes rows of an existing run again, and there would be none in {prepared.store.uri}. "
            "Start without it."
        )
    if prepared.snapshot.changed:
        names = ", ".join(shard.name for shard in prepared.snapshot.changed[:_MAX_NAMED])
        raise RunMismatchError(
            f"Shards have changed and are to be labeled anew as a whole ({names}). Start without --retry-errors first."
        )


def write_run_files(prepared: PreparedRun, lease: Lease, listener: ProgressListener, *, overwrite: bool) -> None:
    """Write run.json, vocabulary.json and the snapshot.

    Args:
        prepared: The run.
        lease: Held on it. It is confirmed before each of these writes: a start that slept must not undo what another
            one has done meanwhile.
        listener: Told when the store does not keep the promise that the protocol rests on.
        overwrite: Discard the run that is there first.

    Raises:
        RunMismatchError: Somebody else has just created another run here.
        RunTakenOverError: Another process holds the run now.
    """
    store = prepared.store
    discarded = None
    if overwrite:
        discarded = _discard_run(store, lease)
    else:
        prepared.verify_unchanged()
    store.remove_abandoned()
    conditional_put = probe_conditional_put(store)
    if not conditional_put:
        listener.message(
            f"The server behind {store.uri} ignores If-None-Match. There is still one file per unit, but two drivers "
            "on this run would overwrite each other's; start only one."
        )
    content = {
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "conditional_put": conditional_put,
        "model": describe_model(prepared.checkpoint),
        "packages": package_versions(),
        "config": prepared.config.model_dump(mode="json"),
    }
    if prepared.origin is not None:
        content["forked_from"] = prepared.origin.to_json(prepared.differences_to_origin())
    if not lease.is_first:  # others have worked here, and their workers may still hold what they have labeled
        content |= new_generation(discarded)
    lease.confirm()
    create_or_verify(store, prepared.identity, content)
    # Before any layer with new labels is made: what has an id in a layer has it here.
    lease.confirm()
    store.replace(VOCABULARY_PATH, encode_json(history_json(prepared.labels)))
    if prepared.snapshot.new or prepared.snapshot.changed:
        lease.confirm()
        write_snapshot(store, prepared.shards)


def present_coverage(prepared: PreparedRun, lease: Lease) -> Coverage:
    """What is committed, without labels of a content that a shard no longer has or of a run that was discarded.

    No raw reader must meet them.

    Args:
        prepared: The run.
        lease: Held on it, and confirmed before anything is deleted.
    """
    coverage = prepared.coverage()
    outdated = [path for unit in coverage.outdated_units() for path in reversed(unit.paths)]
    for path in outdated + find_discarded(prepared.store, coverage.foreign_paths):
        lease.confirm()
        prepared.store.delete(path)
    return coverage


def _discard_run(store: RunStore, lease: Lease) -> dict[str, Any] | None:
    """Remove a run, its run.json last: a start that dies in between still finds a run to discard.

    Files that are not the run's own stay.

    Returns:
        That run.json; None when there is none that makes sense.
    """
    run = None
    with suppress(RunMismatchError):
        run = read_json(store, RUN_PATH)
    if run is not None:
        # From here on its labels count no more: of a run that is discarded in part nobody could say which are right.
        lease.confirm()
        run |= new_generation(run)
        store.replace(RUN_PATH, encode_json(run))
    for item in list(store.list("")):
        if is_own(item.path) and not item.path.startswith("lease/") and item.path != RUN_PATH:
            lease.confirm()
            store.delete(item.path)
    lease.confirm()
    if store.exists(RUN_PATH):
        store.delete(RUN_PATH)
    return run
