"""The passes of one start: layer by layer until nothing is missing, whatever happens to Ray."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sam3lt_ray.errors import (
    EXIT_RETRY,
    InputError,
    RetryableRunError,
    RunTakenOverError,
    Sam3ltError,
    StorageError,
    UsageError,
)
from sam3lt_ray.logs import LogFormat
from sam3lt_ray.pipeline.actors import LabelJob
from sam3lt_ray.pipeline.bookkeeping import Bookkeeping
from sam3lt_ray.pipeline.cluster import ActorResources, plan_actors, ray_session
from sam3lt_ray.pipeline.engine_factory import EngineFactory
from sam3lt_ray.pipeline.error_budget import ErrorBudget
from sam3lt_ray.pipeline.pass_marker import marked_pass
from sam3lt_ray.pipeline.passes import Pass, ray_was_lost
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.pipeline.ray_watch import watching_ray
from sam3lt_ray.pipeline.signals import StopRequest
from sam3lt_ray.pipeline.summary import RunStatus, RunSummary, summarize
from sam3lt_ray.pipeline.worklist import (
    LayerWork,
    find_missing,
    num_rows,
    num_shards,
    plan_gaps,
    plan_retries,
    tally_shards,
)
from sam3lt_ray.progress import ProgressListener
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


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a start goes on.

    Attributes:
        load_engine: What makes the engine in the actors.
        limit: Stop after about this many images (whole units); None: go on to the end.
        verbose: Let Ray's own log lines through.
        log_format: How workers log.
    """

    load_engine: EngineFactory
    limit: int | None
    verbose: bool
    log_format: LogFormat


class RunSession:
    """The passes of one start, layer by layer, until nothing is missing.

    Args:
        prepared: The run.
        listener: Told what happens.
        lease: Held on the run.
        stop: Whether somebody wants it to end.
        options: How.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        listener: ProgressListener,
        lease: Lease,
        stop: StopRequest,
        options: SessionOptions,
    ) -> None:
        self._prepared = prepared
        self._listener = listener
        self._lease = lease
        self._stop = stop
        self._options = options
        self._books = Bookkeeping(prepared, listener, options.limit)
        self._resources: ActorResources | None = None
        self._may_grow = False

    def label_missing(self) -> RunSummary:
        """Ask every image what it was not asked."""
        coverage = self._present_coverage()
        missing = find_missing(self._prepared, coverage)
        self._books.tally.shards_open_before = num_shards(missing)
        work = plan_gaps(self._prepared, coverage, missing)
        self._announce(coverage, work)
        if not work:
            return self._finish("done", "Nothing was missing.")
        return self._work_off(work, "Every image has its row.")

    def retry_errors(self) -> RunSummary:
        """Make error rows again, and nothing else."""
        self._books.budget = ErrorBudget(None)  # all of them were errors: many will be again
        coverage = self._present_coverage()
        work = plan_retries(self._prepared, coverage)
        num_errors = num_rows(work)
        self._books.tally.shards_open_before = num_shards(find_missing(self._prepared, coverage))
        is_complete = self._books.tally.shards_open_before == 0
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
        self._books.totals.forget_missing(coverage.all_paths())
        return coverage

    def _announce(self, coverage: Coverage, work: list[LayerWork]) -> None:
        loose = self._prepared.config.input.has_loose_files
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
            session = ray_session(compute, verbose=self._options.verbose, log_format=self._options.log_format)
            with session as self._may_grow, self._stop.listening(), watching_ray(self._give_up):
                self._resources = self._plan_actors()
                fix_precision(self._prepared.store, self._precision(self._resources))
                self._books.begin(work, self._resources.num_actors)
                leftover: list[ShardWork] = []
                for layer_work in work:
                    rest = self._sweep_until_complete(layer_work)
                    if rest is None:
                        verdict = self._books.budget.verdict()
                        if verdict is not None:
                            return self._finish("over_error_budget", f"Stopped early: {verdict} {_ADVICE}")
                        return self._finish(
                            "limited", f"Stopped after {self._books.tally.counts.images} images, as asked."
                        )
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

    def _give_up(self, lost: str) -> int:
        """Ray is gone, and nothing will ever come back to who waits for it. Called in a thread of its own."""
        message = ray_was_lost(lost)
        self._listener.message(message)
        self._listener.finish()  # a live line hides the cursor
        with suppress(Exception):
            self._finish("interrupted", message)
        self._lease.release()
        return EXIT_RETRY

    def _sweep_until_complete(self, work: LayerWork) -> LayerWork | None:
        """Passes over one layer; what is left of it in the end, or None when it was ended early."""
        max_passes = self._prepared.config.compute.max_passes
        store, layer = self._prepared.store, work.layer.name
        passes = 0
        while work.shards:
            passes += 1
            self._books.tally.passes += 1
            careful = passes > 1 and passes >= max_passes
            if passes > 1:
                self._resources = self._plan_again()
                how = "image by image" if careful else "again"
                self._listener.message(f"Pass {passes}: {_count(work.shards)} incomplete; trying {how}.")
            before = self._books.tally.units, read_notes(store, layer)
            if not self._sweep(work, careful=careful):
                return None
            coverage = self._prepared.coverage()
            self._books.totals.forget_missing(coverage.all_paths())
            work = work.remaining(coverage)
            # A careful pass that commits nothing may still have found out more about what kills its process: each death
            # is noted, and two deaths exclude an image, so this ends.
            after = self._books.tally.units, read_notes(store, layer)
            if passes >= max_passes and after == before:
                break
        return work

    def _plan_actors(self) -> ActorResources:
        weight_bytes = self._prepared.checkpoint.weight_bytes
        return plan_actors(self._prepared.config.compute, weight_bytes, may_grow=self._may_grow)

    def _plan_again(self) -> ActorResources:
        """The pool for the cluster as it is now: what left work over may have been the loss of a node."""
        assert self._resources is not None
        with suppress(UsageError):
            planned = self._plan_actors()
            if planned.device == self._resources.device:  # GPUs that are gone are waited for
                return planned
        return self._resources

    def _sweep(self, work: LayerWork, *, careful: bool) -> bool:
        """One pass; False when it was ended early: the limit of images is reached, or there are too many errors."""
        assert self._resources is not None
        self._lease.confirm()
        with marked_pass(self._prepared.store) as pass_id:
            job = self._job(work.layer, careful, pass_id)
            for outcome in Pass(self._reader(), work.shards, job, self._resources).run():
                self._stop.check()
                self._books.add(outcome)
                # Nothing is written here; what cannot be asked now is asked again.
                with suppress(InputError, StorageError):
                    self._lease.confirm()
                if self._books.is_enough:
                    return False
        return True

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
            load_engine=partial(self._options.load_engine, prepared.checkpoint, prompts, config, resources),
            vocabulary=vocabulary,
            provenance=prepared.provenance(layer),
            store=prepared.store,
            merge_iou=config.labeling.merge_iou,
            max_pixels=config.input.max_pixels,
            decode_threads=resources.decode_threads,
            loose_files=config.input.has_loose_files,
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
                why = self._books.last_loss or "its units were lost in labeling"
                reasons.append(f"{item.shard.name} (readable; {why})")
            except Sam3ltError as error:
                reasons.append(f"{item.shard.name} ({error})")
        more = f" and {len(work) - _MAX_NAMED_SHARDS} more" if len(work) > _MAX_NAMED_SHARDS else ""
        return (
            f"{_count(work)} still incomplete after {self._books.tally.passes} passes: {'; '.join(reasons)}{more}. "
            "Nothing that was labeled is lost; the same command tries the rest again."
        )

    def _finish(self, status: RunStatus, message: str) -> RunSummary:
        coverage = self._prepared.coverage()
        self._lease.confirm()
        return summarize(
            self._prepared.store,
            status,
            message,
            self._books.tally,
            coverage=coverage,
            totals=self._books.totals,
            label_names={label.id: label.name for label in self._prepared.vocabulary.labels},
            num_actors=self._resources.num_actors if self._resources else 0,
            device=self._resources.device if self._resources else "none",
            shards=tally_shards(self._prepared, self._books.tally.shards_open_before, coverage),
            max_error_fraction=self._prepared.config.errors.max_error_fraction,
        )


def _count(work: Sequence[ShardWork]) -> str:
    return f"{len(work)} shard{'' if len(work) == 1 else 's'}"
