"""One start of a run: prepare, take the lease, label what is missing, sum up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sam3lt_ray.config.schema import Config, OnExists
from sam3lt_ray.errors import RetryableRunError
from sam3lt_ray.inputs.listing import describe_files
from sam3lt_ray.logs import LogFormat
from sam3lt_ray.pipeline.actor_plan import refuse_unusable_compute
from sam3lt_ray.pipeline.engine_factory import EngineFactory, segmenter_factory
from sam3lt_ray.pipeline.fork import find_origin
from sam3lt_ray.pipeline.prepare import PreparedRun, prepare_run
from sam3lt_ray.pipeline.run_files import apply_policy, write_run_files
from sam3lt_ray.pipeline.session import RunSession
from sam3lt_ray.pipeline.signals import StopRequest
from sam3lt_ray.pipeline.summary import RunSummary
from sam3lt_ray.pipeline.sweeping import SessionOptions
from sam3lt_ray.progress import ProgressListener, SilentProgress
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.terminal import count_of, name_some

_MAX_NAMED_SHARDS = 3


def label_run(
    config: Config,
    *,
    base_dir: Path | None = None,
    on_exists: OnExists | None = None,
    retry_errors: bool = False,
    fork: str | None = None,
    progress: ProgressListener | None = None,
    limit: int | None = None,
    load_engine: EngineFactory = segmenter_factory,
    verbose: bool = False,
    log_format: LogFormat = "text",
    stops_within_s: float | None = None,
) -> RunSummary:
    """Label what is missing of a run.

    Args:
        config: The settings.
        base_dir: Folder that relative paths in the configuration start from; None: the working directory.
        on_exists: Overrides ``run.on_exists``.
        retry_errors: Make the error rows again, and do nothing else.
        fork: Label into this new run directory instead, from the beginning, and keep in it which run it comes from.
        progress: Told what happens.
        limit: Stop after about this many images (whole units); for a dry run.
        load_engine: What makes the engine in the actors; tests and benchmarks put a stand-in here.
        verbose: Let Ray's own log lines through.
        log_format: How workers log: lines for people, or JSON for those who collect logs.
        stops_within_s: For a process that does nothing else: this long after a signal it is ended with exit code 75,
            whatever it waits for. None: it may take as long as storage and Ray take.

    Returns:
        The summary, also written to ``run_summary.json``; its ``exit_code`` says how it went.

    Raises:
        UsageError: The request is wrong; nothing was started.
        RetryableRunError: Somebody else works on this run, or has taken it over.
    """
    listener = progress if progress is not None else SilentProgress()
    policy = on_exists or config.run.on_exists
    stop = StopRequest(stops_within_s)
    try:
        with stop.listening():
            origin = None if fork is None else find_origin(config, fork)
            if origin is not None:
                config = origin.forked_config
            prepared = prepare_run(config, base_dir, discard_existing=policy == "overwrite", origin=origin)
            apply_policy(prepared, policy, retry_errors=retry_errors)
            if policy == "overwrite" or not prepared.exists:
                refuse_unusable_compute(config.compute, prepared.checkpoint.weight_bytes)
            with Lease(prepared.store) as lease:
                lease.acquire(listener.message)
                write_run_files(prepared, lease, listener, overwrite=policy == "overwrite")
                _describe_start(prepared, listener)
                options = SessionOptions(load_engine, limit, verbose, log_format)
                session = RunSession(prepared, listener, lease, stop, options)
                return session.retry_errors() if retry_errors else session.label_missing()
    except KeyboardInterrupt:
        raise RetryableRunError(
            "Stopped by a signal. What was committed is kept; the same command goes on from there."
        ) from None
    finally:
        listener.finish()


def _describe_start(prepared: PreparedRun, listener: ProgressListener) -> None:
    snapshot = prepared.snapshot
    if prepared.exists:
        listener.message(f"Continuing the run in {prepared.store.uri}.")
    elif prepared.origin is not None:
        listener.message(prepared.origin.describe())
    for line in prepared.labels.change.to_text():
        listener.message(f"Labels {line}.")
    if snapshot.changed:
        named = _named([shard.name for shard in snapshot.changed])
        number = count_of(len(snapshot.changed), "shard")
        listener.message(f"{number} changed in the input ({named}); labels are replaced.")
    if snapshot.vanished:
        named = _named(snapshot.vanished)
        number = count_of(len(snapshot.vanished), "shard")
        listener.message(f"{number} gone from the input ({named}); labels are kept.")
    if snapshot.vanished_images:
        named, number = _named(snapshot.vanished_images), count_of(len(snapshot.vanished_images), "image")
        listener.message(f"{number} gone from the input ({named}); labels are kept.")
    if (warning := prepared.warning()) is not None:
        listener.message(f"Warning: {warning}")
    if prepared.passed_over:
        listener.message(f"Passed over, by their names: {describe_files(Counter(prepared.passed_over))}.")


def _named(names: Sequence[str]) -> str:
    return name_some(names, _MAX_NAMED_SHARDS)
