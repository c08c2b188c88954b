"""One start of a run: prepare, take the lease, sweep in passes until the ledger is complete, sum up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from sam3lt_ray.config.schema import Config, OnExists
from sam3lt_ray.errors import RetryableRunError, RunMismatchError, Sam3ltError
from sam3lt_ray.pipeline.actors import LabelJob, UnitOutcome
from sam3lt_ray.pipeline.cluster import ActorResources, plan_actors, ray_session
from sam3lt_ray.pipeline.engine_factory import EngineFactory, segmenter_factory
from sam3lt_ray.pipeline.pass_marker import marked_pass
from sam3lt_ray.pipeline.passes import Pass
from sam3lt_ray.pipeline.prepare import FIRST_LAYER, PreparedRun, prepare_run
from sam3lt_ray.pipeline.run_files import apply_policy, write_run_files
from sam3lt_ray.pipeline.signals import StopRequest
from sam3lt_ray.pipeline.summary import RunStatus, RunSummary, SessionTally, summarize
from sam3lt_ray.progress import ProgressListener, SilentProgress
from sam3lt_ray.stages.careful import read_notes
from sam3lt_ray.stages.read import MissingUnitReader, ShardWork
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.ledger import Ledger
from sam3lt_ray.storage.run_directory import fix_precision

_MAX_NAMED_SHARDS = 3


def label_run(
    config: Config,
    *,
    base_dir: Path | None = None,
    on_exists: OnExists | None = None,
    progress: ProgressListener | None = None,
    limit: int | None = None,
    load_engine: EngineFactory = segmenter_factory,
    verbose: bool = False,
) -> RunSummary:
    """Label what is missing of a run.

    Args:
        config: The settings.
        base_dir: Folder that relative paths in the configuration start from; None: the working directory.
        on_exists: Overrides ``run.on_exists``.
        progress: Told what happens.
        limit: Stop after about this many images (whole units); for a dry run.
        load_engine: What makes the engine in the actors; tests and benchmarks put a stand-in here.
        verbose: Let Ray's own log lines through.

    Returns:
        The summary, also written to ``run_summary.json``; its ``exit_code`` says how it went.

    Raises:
        UsageError: The request is wrong; nothing was started.
        RetryableRunError: Somebody else works on this run.
    """
    listener = progress if progress is not None else SilentProgress()
    policy = on_exists or config.run.on_exists
    stop = StopRequest()
    try:
        with stop.listening():
            prepared = prepare_run(config, base_dir, discard_existing=policy == "overwrite")
            apply_policy(prepared, policy)
            with Lease(prepared.store) as lease:
                lease.acquire(listener.message)
                write_run_files(prepared, listener, overwrite=policy == "overwrite")
                _describe_start(prepared, listener)
                return _Session(prepared, listener, limit, load_engine, lease, stop, verbose).run()
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
    ) -> None:
        self._prepared = prepared
        self._listener = listener
        self._limit = limit
        self._load_engine = load_engine
        self._lease = lease
        self._stop = stop
        self._verbose = verbose
        self._tally = SessionTally()
        self._resources: ActorResources | None = None

    def run(self) -> RunSummary:
        ledger = self._prepared.ledger()
        work = self._prepared.missing(ledger)
        loose = self._prepared.config.input.format in ("folder", "manifest")
        self._listener.plan_known(
            # Groups of loose files know their size; tars and Parquet files would have to be opened.
            total_images=sum(len(shard.members) for shard in self._prepared.shards) if loose else None,
            total_units=None,
            done_images=ledger.total_images(),
            done_units=ledger.total_units(),
        )
        if not work:
            return self._finish("done", "Nothing was missing.")
        try:
            # Signals once more: joining Ray puts a handler of its own in place, which exits with the signal's number.
            compute = self._prepared.config.compute
            with ray_session(compute, verbose=self._verbose) as may_grow, self._stop.listening():
                weight_bytes = self._prepared.checkpoint.weight_bytes
                self._resources = plan_actors(compute, weight_bytes, may_grow=may_grow)
                fix_precision(self._prepared.store, self._precision(self._resources))
                return self._sweep_until_complete(work)
        except KeyboardInterrupt:
            message = "Stopped by a signal; units in flight were dropped. The same command continues the run."
            return self._finish("interrupted", message)
        except Exception as error:
            # An earlier start's summary must not stand there and say that all is well.
            with suppress(OSError, Sam3ltError):
                self._finish("failed", str(error) or type(error).__name__)
            raise

    def _sweep_until_complete(self, work: list[ShardWork]) -> RunSummary:
        max_passes = self._prepared.config.compute.max_passes
        while work:
            self._tally.passes += 1
            careful = self._tally.passes > 1 and self._tally.passes >= max_passes
            if self._tally.passes > 1:
                how = "image by image" if careful else "again"
                self._listener.message(f"Pass {self._tally.passes}: {_count(work)} incomplete; trying {how}.")
            before = self._tally.units, read_notes(self._prepared.store, FIRST_LAYER)
            if not self._sweep(work, careful=careful):
                return self._finish("limited", f"Stopped after {self._tally.counts.images} images, as asked.")
            work = self._prepared.missing(self._prepared.ledger())
            # A careful pass that commits nothing may still have found out more about what kills its process: each death
            # is noted, and two deaths exclude an image, so this ends.
            after = self._tally.units, read_notes(self._prepared.store, FIRST_LAYER)
            if self._tally.passes >= max_passes and after == before:
                break
        if work:
            return self._finish("incomplete", self._describe_leftover(work))
        return self._finish("done", "Every image has its row.")

    def _sweep(self, work: list[ShardWork], *, careful: bool) -> bool:
        """One pass; False when the limit of images is reached."""
        assert self._resources is not None
        with marked_pass(self._prepared.store) as pass_id:
            return self._consume(Pass(self._reader(), work, self._job(careful, pass_id), self._resources).run())

    def _consume(self, outcomes: Iterator[UnitOutcome]) -> bool:
        for outcome in outcomes:
            self._tally.add(outcome)
            self._stop.check()
            counts = outcome.counts
            self._listener.unit_done(images=counts.images, errors=counts.num_errors, instances=counts.num_instances)
            if self._lease.lost:
                raise RunMismatchError(
                    "Another process took this run over while this one was not responding. Its work goes on; this "
                    "process stops. What both have committed is the same."
                )
            if self._limit is not None and self._tally.counts.images >= self._limit:
                return False
        return True

    def _precision(self, resources: ActorResources) -> str:
        wanted = self._prepared.config.compute.precision
        return wanted if wanted != "auto" else ("bf16" if resources.device == "cuda" else "fp32")

    def _reader(self) -> MissingUnitReader:
        config = self._prepared.config
        return MissingUnitReader(self._prepared.store, FIRST_LAYER, config.input, config.storage)

    def _job(self, careful: bool, pass_id: str) -> LabelJob:
        prepared, config, resources = self._prepared, self._prepared.config, self._resources
        assert resources is not None
        prompts = tuple(text for _, _, text in prepared.vocabulary.prompts)
        return LabelJob(
            load_engine=partial(self._load_engine, prepared.checkpoint, prompts, config, resources),
            vocabulary=prepared.vocabulary,
            provenance=prepared.provenance,
            store=prepared.store,
            layer=FIRST_LAYER,
            merge_iou=config.labeling.merge_iou,
            max_pixels=config.input.max_pixels,
            decode_threads=resources.decode_threads,
            loose_files=config.input.format in ("folder", "manifest"),
            careful=careful,
            image_timeout_s=config.compute.image_timeout_s,
            pass_id=pass_id,
        )

    def _describe_leftover(self, work: list[ShardWork]) -> str:
        """Name some incomplete shards and why reading them fails, as far as the driver can see it itself."""
        reader, reasons = self._reader(), []
        for item in work[:_MAX_NAMED_SHARDS]:
            try:
                next(reader(item), None)
                reasons.append(f"{item.shard.name} (readable; its units were lost in labeling)")
            except Sam3ltError as error:
                reasons.append(f"{item.shard.name} ({error})")
        more = f" and {len(work) - _MAX_NAMED_SHARDS} more" if len(work) > _MAX_NAMED_SHARDS else ""
        return (
            f"{_count(work)} still incomplete after {self._tally.passes} passes: {'; '.join(reasons)}{more}. "
            "Nothing that was labeled is lost; the same command tries the rest again."
        )

    def _finish(self, status: RunStatus, message: str) -> RunSummary:
        ledger: Ledger = self._prepared.ledger()
        return summarize(
            self._prepared.store,
            status,
            message,
            self._tally,
            unit_paths=(unit.path for unit in ledger.iter_units()),
            label_names={label.id: label.name for label in self._prepared.vocabulary.labels},
            num_actors=self._resources.num_actors if self._resources else 0,
            device=self._resources.device if self._resources else "none",
            num_shards=len(self._prepared.shards),
            max_error_fraction=self._prepared.config.errors.max_error_fraction,
        )


def _describe_start(prepared: PreparedRun, listener: ProgressListener) -> None:
    if prepared.exists:
        listener.message(f"Continuing the run in {prepared.store.uri}.")
    if prepared.vanished:
        named = ", ".join(prepared.vanished[:_MAX_NAMED_SHARDS])
        listener.message(f"{len(prepared.vanished)} shards are gone from the input ({named}); their labels are kept.")


def _count(work: list[ShardWork]) -> str:
    return f"{len(work)} shard{'' if len(work) == 1 else 's'}"
