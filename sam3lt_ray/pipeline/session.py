"""One start of a run: what is missing is worked off, layer by layer, and summed up, whatever happens to Ray."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sam3lt_ray.errors import (
    EXIT_RETRY,
    InputError,
    RetryableRunError,
    RunTakenOverError,
    Sam3ltError,
    StorageError,
    sentence_of,
)
from sam3lt_ray.labels.images_ahead import ImagesAhead
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.pipeline.bookkeeping import Bookkeeping
from sam3lt_ray.pipeline.collector import collector_paused
from sam3lt_ray.pipeline.error_budget import ErrorBudget
from sam3lt_ray.pipeline.first_look import find_wrong_input
from sam3lt_ray.pipeline.lost_hosts import hanging_up_on_lost_hosts
from sam3lt_ray.pipeline.passes import ray_was_lost
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.pipeline.ray_session import ray_session
from sam3lt_ray.pipeline.ray_watch import watching_ray
from sam3lt_ray.pipeline.run_files import present_coverage
from sam3lt_ray.pipeline.signals import StopRequest
from sam3lt_ray.pipeline.summary import RunStatus, RunSummary, summarize
from sam3lt_ray.pipeline.sweeping import SessionOptions, Sweeper, count_shards
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
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.stages.read import ShardWork
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.run_directory import fix_precision
from sam3lt_ray.terminal import count_of

_MAX_NAMED_SHARDS = 3
# A start that is interrupted has seconds: a run with more units than these is not listed once more for its summary.
_MAX_UNITS_LISTED_IN_HASTE = 10_000
_ADVICE = (
    "What was labeled is kept. Correct the input and label into a new run, or raise errors.max_error_fraction and "
    "start this command again."
)


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
        self._device = "none"
        self._units_before = 0

    def label_missing(self) -> RunSummary:
        """Ask every image what it was not asked."""
        work = self._plan_missing()
        if not work:
            return self._finish("done", "Nothing was missing.")
        config = self._prepared.config
        wrong = find_wrong_input(work, config.input, config.storage, config.errors.max_error_fraction)
        if wrong is not None:
            self._books.tally.refused = wrong
            return self._finish("over_error_budget", f"{_describe_wrong_input(wrong)} {_ADVICE}")
        return self._work_off(work, "Every image has its row.")

    @collector_paused()
    def _plan_missing(self) -> list[LayerWork]:
        """What there is to ask. All else that is known of a million shards goes before labeling begins."""
        coverage = self._present_coverage()
        missing = find_missing(self._prepared, coverage)
        self._books.tally.shards_open_before = num_shards(missing)
        work = plan_gaps(self._prepared, coverage, missing)
        self._announce(coverage)
        return work

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
        self._books.announce(ImagesAhead(counted=num_errors))
        return self._work_off(work, f"{num_errors:,} error rows were tried again.{rest}", status)

    def _present_coverage(self) -> Coverage:
        coverage = present_coverage(self._prepared, self._lease)
        self._books.totals.forget_missing(coverage.all_paths())
        self._units_before = coverage.num_units
        return coverage

    def _announce(self, coverage: Coverage) -> None:
        vanished = set(self._prepared.snapshot.vanished)
        ahead = ImagesAhead.look(self._prepared.shards, coverage, vanished)
        self._books.announce(ahead, done_units=coverage.num_wanted_units)

    def _work_off(self, work: list[LayerWork], message: str, status: RunStatus = "done") -> RunSummary:
        try:
            # Signals once more: joining Ray puts a handler of its own in place, which exits with the signal's number.
            compute = self._prepared.config.compute
            session = ray_session(compute, verbose=self._options.verbose, log_format=self._options.log_format)
            watched = watching_ray(self._give_up)
            with session as may_grow, self._stop.listening(), watched, hanging_up_on_lost_hosts(), self._books:
                parts = self._prepared, self._books, self._lease, self._stop, self._listener, self._options
                sweeper = Sweeper(*parts, may_grow=may_grow)
                self._device = sweeper.resources.device
                self._lease.confirm()
                fix_precision(self._prepared.store, self._precision(self._device))
                self._books.begin(work)
                leftover: list[ShardWork] = []
                for layer_work in work:
                    rest = sweeper.sweep_until_complete(layer_work)
                    if rest is None:
                        verdict = self._books.budget.verdict()
                        if verdict is not None:
                            return self._finish("over_error_budget", f"Stopped early: {verdict} {_ADVICE}")
                        return self._finish(
                            "limited", f"Stopped after {count_of(self._books.tally.counts.images, 'image')}, as asked."
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

    def _precision(self, device: str) -> str:
        wanted = self._prepared.config.compute.precision
        return wanted if wanted != "auto" else ("bf16" if device == "cuda" else "fp32")

    def _describe_leftover(self, work: Sequence[ShardWork]) -> str:
        """Name some incomplete shards and why reading them fails, as far as the driver can see it itself."""
        reader, reasons = self._prepared.reader(), []
        for item in work[:_MAX_NAMED_SHARDS]:
            try:
                next(reader(item), None)
                why = self._books.last_loss or "its units were lost in labeling"
                reasons.append(f"{item.shard.name} (readable; {why})")
            except Exception as error:  # whatever it is: the others are to be named too
                reasons.append(f"{item.shard.name} ({without_credentials(sentence_of(error))})")
        more = f" and {len(work) - _MAX_NAMED_SHARDS} more" if len(work) > _MAX_NAMED_SHARDS else ""
        return (
            f"{count_shards(work)} still incomplete after {self._books.tally.passes} passes: "
            f"{'; '.join(reasons)}{more}. Nothing that was labeled is lost; the same command tries the rest again."
        )

    @collector_paused()
    def _finish(self, status: RunStatus, message: str) -> RunSummary:
        is_large = self._units_before + self._books.tally.units > _MAX_UNITS_LISTED_IN_HASTE
        coverage = None if status == "interrupted" and is_large else self._prepared.coverage()
        self._lease.confirm()
        return summarize(
            self._prepared.store,
            status,
            message,
            self._books.tally,
            coverage=coverage,
            totals=self._books.totals,
            label_names={label.id: label.name for label in self._prepared.vocabulary.labels},
            device=self._device,
            shards=tally_shards(self._prepared, self._books.tally.shards_open_before, coverage),
            max_error_fraction=self._prepared.config.errors.max_error_fraction,
        )


def _describe_wrong_input(wrong: UnitCounts) -> str:
    return (
        f"Stopped early, before any device was used: none of the {wrong.images:,} files that were looked at first can "
        "be an image, so this is the wrong input."
    )
