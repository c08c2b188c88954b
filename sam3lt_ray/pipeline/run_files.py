"""The files a start writes before it labels, and when it must not start."""

from __future__ import annotations

import time

from sam3lt_ray.config.schema import OnExists
from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.pipeline.prepare import PreparedRun, describe_model
from sam3lt_ray.pipeline.summary import package_versions
from sam3lt_ray.progress import ProgressListener
from sam3lt_ray.storage.run_directory import (
    RUN_PATH,
    VOCABULARY_PATH,
    create_or_verify,
    encode_json,
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


def write_run_files(prepared: PreparedRun, listener: ProgressListener, *, overwrite: bool) -> None:
    """Write run.json, vocabulary.json and the snapshot; the caller holds the lease.

    Args:
        prepared: The run.
        listener: Told when the store does not keep the promise that the protocol rests on.
        overwrite: Discard the run that is there first.

    Raises:
        RunMismatchError: Somebody else has just created another run here, or what is to be overwritten is no run.
    """
    store = prepared.store
    if overwrite:
        _discard_run(store)
    else:
        prepared.verify_labels()
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
    create_or_verify(store, prepared.identity, content)
    # Before any layer with new labels is made: what has an id in a layer has it here.
    store.replace(VOCABULARY_PATH, encode_json(history_json(prepared.labels)))
    if prepared.snapshot.new or prepared.snapshot.changed:
        write_snapshot(store, prepared.shards)


def _discard_run(store: RunStore) -> None:
    """Remove a run, its run.json last: a start that dies in between still finds a run to discard."""
    if not store.exists(RUN_PATH) and any(not item.path.startswith("lease/") for item in store.list("")):
        raise RunMismatchError(
            f"{store.uri} is not a run directory (it has no {RUN_PATH}) but holds other files. Nothing was deleted. "
            "Choose an empty place for run.output."
        )
    for item in list(store.list("")):
        if not item.path.startswith("lease/") and item.path != RUN_PATH:
            store.delete(item.path)
    if store.exists(RUN_PATH):
        store.delete(RUN_PATH)
