"""What a start does with each unit that comes back: counted, remembered, told; and whether it has had enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import ray

from sam3lt_ray.errors import StorageError, StorageUnavailableError
from sam3lt_ray.labels.images_ahead import ImageCount, ImagesAhead
from sam3lt_ray.labels.totals import RunTotals
from sam3lt_ray.pipeline.actor_plan import ActorResources
from sam3lt_ray.pipeline.actors import UnitOutcome
from sam3lt_ray.pipeline.error_budget import ErrorBudget
from sam3lt_ray.pipeline.metrics import RunMetrics
from sam3lt_ray.pipeline.open_shards import OpenShards
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.pipeline.summary import SessionTally
from sam3lt_ray.pipeline.worklist import LayerWork
from sam3lt_ray.progress import ProgressListener
from sam3lt_ray.redaction import without_credentials

# Labels that cannot be stored are lost, and with them the device's time. One unit may have met a hiccup that outlasted
# all attempts; this many in a row mean that it is not worth going on.
_MAX_LOST_IN_A_ROW: Final = 4


class Bookkeeping:
    """The books of one start; a context manager, which ends what :meth:`begin` has begun.

    Args:
        prepared: The run.
        listener: Told of each unit.
        limit: Images after which it is enough; None: never.

    Attributes:
        tally: This start's numbers.
        totals: What is known of all units without opening them.
        budget: Whether too much goes wrong.
        last_loss: Why the latest unit that could not be stored could not be stored.
    """

    def __init__(self, prepared: PreparedRun, listener: ProgressListener, limit: int | None) -> None:
        self.tally = SessionTally()
        self.totals = RunTotals.load(prepared.store)
        self.budget = ErrorBudget(prepared.config.errors.max_error_fraction)
        self.last_loss: str | None = None
        self._prepared = prepared
        self._listener = listener
        self._limit = limit
        self._lost_in_a_row = 0
        self._metrics: RunMetrics | None = None
        self._ahead = ImagesAhead()
        self._done_images = self._done_units = 0
        self._told = ImageCount(None, is_estimate=False)

    def announce(self, ahead: ImagesAhead, done_units: int = 0) -> None:
        """Tell what there is to do, now and whenever it becomes better known.

        Args:
            ahead: Images that are done and to do; kept up from now on.
            done_units: Units that earlier starts have committed.
        """
        self._ahead, self._done_images, self._done_units = ahead, ahead.done, done_units
        self._tell_total()

    def begin(self, work: Sequence[LayerWork]) -> None:
        """Ray is there: from now on Prometheus is told, too.

        Args:
            work: What is to do.
        """
        prepared = self._prepared
        names = {label.id: label.name for label in prepared.vocabulary.labels}
        shards = OpenShards((item for layer in work for item in layer.shards), len(prepared.shards), self._ahead)
        self._metrics = RunMetrics(without_credentials(prepared.store.uri), names, shards)

    def begin_pass(self, resources: ActorResources) -> None:
        """The next pass has actors of its own, of which as many count as there is room for: others may come, or not."""
        num_there = resources.num_fitting(ray.nodes())
        self.tally.begin_pass(min(resources.num_actors, num_there))
        if self._metrics is not None:
            self._metrics.begin_pass(resources, num_there)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._metrics is not None:
            self._metrics.close()

    def add(self, outcome: UnitOutcome) -> None:
        """A unit has come back.

        Raises:
            StorageError: Too many units in a row could not be stored.
        """
        if outcome.failure is not None:
            self._note_loss(outcome.failure, passes=outcome.failure_passes)
            return
        self._lost_in_a_row = 0
        self.tally.add(outcome)
        if outcome.created:
            self.totals.add(outcome.path, outcome.counts)
        counts = outcome.counts
        self.budget.add(outcome.shard, counts)
        busy_share = None if self._metrics is None else self._metrics.add(outcome)
        if self._total() != self._told:
            self._tell_total()
        self._listener.unit_done(
            images=counts.images,
            errors=counts.num_errors,
            instances=counts.num_instances,
            busy_share=busy_share,
        )

    @property
    def is_enough(self) -> bool:
        """The limit of images is reached, or there are too many errors."""
        is_full = self._limit is not None and self.tally.counts.images >= self._limit
        return is_full or self.budget.verdict() is not None

    def _total(self) -> ImageCount:
        """Images of the run, or as many as this start may get to."""
        total = self._ahead.total()
        if self._limit is None:
            return total
        most = self._done_images + self._limit
        return total if total.images is not None and total.images <= most else ImageCount(most, total.images is None)

    def _tell_total(self) -> None:
        self._told = self._total()
        self._listener.plan_known(
            total_images=self._told.images,
            is_estimate=self._told.is_estimate,
            done_images=self._done_images,
            done_units=self._done_units,
        )

    def _note_loss(self, reason: str, *, passes: bool) -> None:
        self.last_loss = reason
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= _MAX_LOST_IN_A_ROW:
            kind = StorageUnavailableError if passes else StorageError
            raise kind(
                f"{reason} The labels of {self._lost_in_a_row} units in a row could not be stored, so this start "
                "stopped. What was stored before is complete; the same command goes on from there."
            )
