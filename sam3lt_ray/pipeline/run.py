"""One start of a run: prepare, take the lease, sweep layer by layer in passes until nothing is missing, sum up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from sam3lt_ray.config.schema import Config, OnExists
from sam3lt_ray.errors import (
    EXIT_RETRY,
    InputError,
    RetryableRunError,
    RunTakenOverError,
    Sam3ltError,
    StorageError,
    StorageUnavailableError,
    UsageError,
)
from sam3lt_ray.labels.totals import RunTotals
from sam3lt_ray.logs import LogFormat
from sam3lt_ray.pipeline.actors import LabelJob, UnitOutcome
from sam3lt_ray.pipeline.cluster import ActorResources, plan_actors, ray_session
from sam3lt_ray.pipeline.engine_factory import EngineFactory, segmenter_factory
from sam3lt_ray.pipeline.error_budget import ErrorBudget
from sam3lt_ray.pipeline.fork import find_origin
from sam3lt_ray.pipeline.metrics import OpenShards, RunMetrics
from sam3lt_ray.pipeline.pass_marker import marked_pass
from sam3lt_ray.pipeline.passes import Pass
from sam3lt_ray.pipeline.prepare import PreparedRun, prepare_run
from sam3lt_ray.pipeline.run_files import apply_policy, write_run_files
from sam3lt_ray.pipeline.signals import StopRequest
from sam3lt_ray.pipeline.summary import RunStatus, RunSummary, SessionTally, summarize
from sam3lt_ray.pipeline.worklist import LayerWork, find_missing, num_rows, plan_gaps, plan_retries
from sam3lt_ray.progress import ProgressListener, SilentProgress
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.stages.careful import read_notes
from sam3lt_ray.stages.read import MissingUnitReader, ShardWork
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import Layer
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.run_directory import fix_precision
from sam3lt_ray.vocabulary.labels import Vocabulary

_MAX_NAMED_SHARDS = 3
_ADVICE = (
    "What was labeled is kept. Correct the input and label into a new run, or raise errors.max_error_fraction and "
    "start this command again. The commonest causes:"
)
# Labels that cannot be stored are lost, and with them the device's time. One unit may have met a hiccup that outlasted
# all attempts; this many in a row mean that it is not worth going on.
_MAX_LOST_IN_A_ROW = 4


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

    Returns:
        The summary, also written to ``run_summary.json``; its ``exit_code`` says how it went.

    Raises:
        UsageError: The request is wrong; nothing was started.
        RetryableRunError: Somebody else works on this run, or has taken it over.
    """
    listener = progress if progress is not None else SilentProgress()
    policy = on_exists or config.run.on_exists
    stop = StopRequest()
    try:
        with stop.listening():
            origin = None if fork is None else find_origin(config, fork)
            if origin is not None:
                config = origin.forked_config
            prepared = prepare_run(config, base_dir, discard_existing=policy == "overwrite", origin=origin)
            apply_policy(prepared, policy, retry_errors=retry_errors)
            with Lease(prepared.store) as lease:
                lease.acquire(listener.message)
                write_run_files(prepared, lease, listener, overwrite=policy == "overwrite")
                _describe_start(prepared, listener)
                session = _Session(prepared, listener, limit, load_engine, lease, stop, verbose, log_format)
                return session.retry_errors() if retry_errors else session.label_missing()
    except KeyboardInterrupt:
        raise RetryableRunError("Stopped by a signal before anything was labeled.") from None
    finally:
        listener.finish()


class _Session:
    """The passes of one start, and what they add up to."""

    def __init__(
        self,
        prepared: PreparedRun,
        listener: ProgressListener,
        limit: int | None,
        load_engine: EngineFactory,
        lease: Lease,
        stop: StopRequest,
        verbose: bool,
        log_format: LogFormat,
    ) -> None:
        self._prepared = prepared
        self._listener = listener
        self._limit = limit
        self._load_engine = load_engine
        self._lease = lease
        self._stop = stop
        self._verbose, self._log_format = verbose, log_format
        self._tally = SessionTally()
        self._budget = ErrorBudget(prepared.config.errors.max_error_fraction)
        self._totals = RunTotals.load(prepared.store)
        self._resources: ActorResources | None = None
        self._metrics: RunMetrics | None = None
        self._lost_in_a_row = 0
        self._last_loss: str | None = None

    def label_missing(self) -> RunSummary:
        """Ask every image what it was not asked."""
        coverage = self._present_coverage()
        work = plan_gaps(self._prepared, coverage, find_missing(self._prepared, coverage))
        self._announce(coverage, work)
        if not work:
            return self._finish("done", "Nothing was missing.")
        return self._work_off(work, "Every image has its row.")

    def retry_errors(self) -> RunSummary:
        """Make error rows again, and nothing else."""
        self._budget = ErrorBudget(None)  # all of them were errors: many will be again
        coverage = self._present_coverage()
        work = plan_retries(self._prepared, coverage)
        num_errors = num_rows(work)
        is_complete = not find_missing(self._prepared, coverage)
        rest = (
            "" if is_complete else " The run is not complete; without --retry-errors the same command goes on with it."
        )
        status: RunStatus = "done" if is_complete else "limited"
        if not work:
            return self._finish(status, f"There are no error rows.{rest}")
        self._listener.message(f"{num_errors:,} error rows are tried again.")
        return self._work_off(work, f"{num_errors:,} error rows were tried again.{rest}", status)

    def _present_coverage(self) -> Coverage:
        """What is committed, without labels of a content that a shard no longer has: no raw reader must meet them."""
        coverage = self._prepared.coverage()
        for unit in list(coverage.outdated_units()):
            self._lease.confirm()
            for path in reversed(unit.paths):
                self._prepared.store.delete(path)
        self._totals.forget_missing(coverage.all_paths())
        return coverage

    def _announce(self, coverage: Coverage, work: list[LayerWork]) -> None:
        loose = self._prepared.config.input.format in ("folder", "manifest")
        incomplete = {item.shard.name for layer in work for item in layer.shards}
        self._listener.plan_known(
            # Groups of loose files know their size; tars and Parquet files would have to be opened.
            total_images=sum(len(shard.members) for shard in self._prepared.shards) if loose else None,
            total_units=None,
            done_images=sum(
                coverage.num_images(shard) for shard in self._prepared.shards if shard.name not in incomplete
            ),
            done_units=sum(1 for _ in coverage.iter_units()),
        )

    def _work_off(self, work: list[LayerWork], message: str, status: RunStatus = "done") -> RunSummary:
        try:
            # Signals once more: joining Ray puts a handler of its own in place, which exits with the signal's number.
            compute = self._prepared.config.compute
            session = ray_session(compute, verbose=self._verbose, log_format=self._log_format)
            with session as may_grow, self._stop.listening():
                weight_bytes = self._prepared.checkpoint.weight_bytes
                self._resources = plan_actors(compute, weight_bytes, may_grow=may_grow)
                fix_precision(self._prepared.store, self._precision(self._resources))
                self._metrics = self._count_for_prometheus(work, self._resources.num_actors)
                leftover: list[ShardWork] = []
                for layer_work in work:
                    rest = self._sweep_until_complete(layer_work)
                    if rest is None:
                        verdict = self._budget.verdict()
                        if verdict is not None:
                            return self._finish("over_error_budget", f"Stopped early: {verdict} {_ADVICE}")
                        return self._finish("limited", f"Stopped after {self._tally.counts.images} images, as asked.")
                    leftover += rest.shards
                if leftover:
                    return self._finish("incomplete", self._describe_leftover(leftover))
                return self._finish(status, message)
        except KeyboardInterrupt:
            message = "Stopped by a signal; units in flight were dropped. The same command continues the run."
            return self._finish("interrupted", message)
        except RunTakenOverError:
            raise  # the summary is the other one's now
        except RetryableRunError as error:
            return self._finish("interrupted", error.message)
        except Exception as error:
            # A successor ends our actors, and then Ray has much to say; but that is the reason.
            with suppress(OSError, InputError, StorageError):
                self._lease.confirm()
            # An earlier start's summary must not stand there and say that all is well.
            with suppress(OSError, Sam3ltError):
                worth_retrying = getattr(error, "exit_code", None) == EXIT_RETRY
                self._finish("interrupted" if worth_retrying else "failed", str(error) or type(error).__name__)
            if isinstance(error, InputError):
                # What could be used when the run began is no wrong request, whatever keeps it from being used now.
                raise StorageError(error.message) from None
            raise

    def _sweep_until_complete(self, work: LayerWork) -> LayerWork | None:
        """Passes over one layer; what is left of it in the end, or None when it was ended early."""
        max_passes = self._prepared.config.compute.max_passes
        store, layer = self._prepared.store, work.layer.name
        passes = 0
        while work.shards:
            passes += 1
            self._tally.passes += 1
            careful = passes > 1 and passes >= max_passes
            if passes > 1:
                self._resources = self._plan_again()
                how = "image by image" if careful else "again"
                self._listener.message(f"Pass {passes}: {_count(work.shards)} incomplete; trying {how}.")
            before = self._tally.units, read_notes(store, layer)
            if not self._sweep(work, careful=careful):
                return None
            coverage = self._prepared.coverage()
            self._totals.forget_missing(coverage.all_paths())
            work = work.remaining(coverage)
            # A careful pass that commits nothing may still have found out more about what kills its process: each death
            # is noted, and two deaths exclude an image, so this ends.
            after = self._tally.units, read_notes(store, layer)
            if passes >= max_passes and after == before:
                break
        return work

    def _plan_again(self) -> ActorResources:
        """The pool for the cluster as it is now: what left work over may have been the loss of a node."""
        assert self._resources is not None
        with suppress(UsageError):
            planned = plan_actors(self._prepared.config.compute, self._prepared.checkpoint.weight_bytes)
            if planned.device == self._resources.device:  # GPUs that are gone are waited for
                return planned
        return self._resources

    def _sweep(self, work: LayerWork, *, careful: bool) -> bool:
        """One pass; False when it was ended early: the limit of images is reached, or there are too many errors."""
        assert self._resources is not None
        self._lease.confirm()
        with marked_pass(self._prepared.store) as pass_id:
            job = self._job(work.layer, careful, pass_id)
            return self._consume(Pass(self._reader(), work.shards, job, self._resources).run())

    def _consume(self, outcomes: Iterator[UnitOutcome]) -> bool:
        for outcome in outcomes:
            self._stop.check()
            if outcome.failure is not None:
                self._note_loss(outcome.failure, passes=outcome.failure_passes)
                continue
            self._lost_in_a_row = 0
            self._tally.add(outcome)
            if outcome.created:
                self._totals.add(outcome.path, outcome.counts)
            self._budget.add(outcome.shard, outcome.counts)
            counts = outcome.counts
            busy_share = None if self._metrics is None else self._metrics.add(outcome)
            self._listener.unit_done(
                images=counts.images,
                errors=counts.num_errors,
                instances=counts.num_instances,
                busy_share=busy_share,
            )
            with suppress(InputError, StorageError):  # nothing is written here; what cannot be asked now is asked again
                self._lease.confirm()
            if self._budget.verdict() is not None:
                return False
            if self._limit is not None and self._tally.counts.images >= self._limit:
                return False
        return True

    def _note_loss(self, reason: str, *, passes: bool) -> None:
        self._last_loss = reason
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= _MAX_LOST_IN_A_ROW:
            kind = StorageUnavailableError if passes else StorageError
            raise kind(
                f"{reason} The labels of {self._lost_in_a_row} units in a row could not be stored, so this start "
                "stopped. What was stored before is complete; the same command goes on from there."
            )

    def _count_for_prometheus(self, work: Sequence[LayerWork], num_actors: int) -> RunMetrics:
        prepared = self._prepared
        names = {label.id: label.name for label in prepared.vocabulary.labels}
        shards = OpenShards((item for layer in work for item in layer.shards), len(prepared.shards))
        return RunMetrics(without_credentials(prepared.store.uri), names, num_actors, shards)

    def _precision(self, resources: ActorResources) -> str:
        wanted = self._prepared.config.compute.precision
        return wanted if wanted != "auto" else ("bf16" if resources.device == "cuda" else "fp32")

    def _reader(self) -> MissingUnitReader:
        config = self._prepared.config
        return MissingUnitReader(self._prepared.store, config.input, config.storage)

    def _job(self, layer: Layer, careful: bool, pass_id: str) -> LabelJob:
        prepared, config, resources = self._prepared, self._prepared.config, self._resources
        assert resources is not None
        vocabulary = Vocabulary(layer.labels, prepared.vocabulary.source)
        prompts = tuple(text for _, _, text in vocabulary.prompts)
        return LabelJob(
            load_engine=partial(self._load_engine, prepared.checkpoint, prompts, config, resources),
            vocabulary=vocabulary,
            provenance=prepared.provenance(layer),
            store=prepared.store,
            merge_iou=config.labeling.merge_iou,
            max_pixels=config.input.max_pixels,
            decode_threads=resources.decode_threads,
            loose_files=config.input.format in ("folder", "manifest"),
            careful=careful,
            image_timeout_s=config.compute.image_timeout_s,
            pass_id=pass_id,
        )

    def _describe_leftover(self, work: Sequence[ShardWork]) -> str:
        """Name some incomplete shards and why reading them fails, as far as the driver can see it itself."""
        reader, reasons = self._reader(), []
        for item in work[:_MAX_NAMED_SHARDS]:
            try:
                next(reader(item), None)
                why = self._last_loss or "its units were lost in labeling"
                reasons.append(f"{item.shard.name} (readable; {why})")
            except Sam3ltError as error:
                reasons.append(f"{item.shard.name} ({error})")
        more = f" and {len(work) - _MAX_NAMED_SHARDS} more" if len(work) > _MAX_NAMED_SHARDS else ""
        return (
            f"{_count(work)} still incomplete after {self._tally.passes} passes: {'; '.join(reasons)}{more}. "
            "Nothing that was labeled is lost; the same command tries the rest again."
        )

    def _finish(self, status: RunStatus, message: str) -> RunSummary:
        coverage = self._prepared.coverage()
        self._lease.confirm()
        return summarize(
            self._prepared.store,
            status,
            message,
            self._tally,
            coverage=coverage,
            totals=self._totals,
            label_names={label.id: label.name for label in self._prepared.vocabulary.labels},
            num_actors=self._resources.num_actors if self._resources else 0,
            device=self._resources.device if self._resources else "none",
            num_shards=len(self._prepared.shards),
            complete=not find_missing(self._prepared, coverage),
            max_error_fraction=self._prepared.config.errors.max_error_fraction,
        )


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
        listener.message(f"{len(snapshot.changed)} shards have changed ({named}); their labels are replaced.")
    if snapshot.vanished:
        named = _named(snapshot.vanished)
        listener.message(f"{len(snapshot.vanished)} shards are gone from the input ({named}); their labels are kept.")


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED_SHARDS]) + (", ..." if len(names) > _MAX_NAMED_SHARDS else "")


def _count(work: Sequence[ShardWork]) -> str:
    return f"{len(work)} shard{'' if len(work) == 1 else 's'}"
