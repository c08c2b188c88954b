"""One pass: a sweep of Ray Data over what is missing.

Ray's own opinion about success does not count. Blocks may fail, nodes may leave; whatever did not end as a committed
file is still missing in the ledger, and the next pass takes it up.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import (
    ActorDiedError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    RayError,
    RaySystemError,
    RpcError,
)
from ray.util.annotations import RayDeprecationWarning

from sam3lt_ray import errors
from sam3lt_ray.errors import ConfigError, ImageError, RetryableRunError, RunError, Sam3ltError
from sam3lt_ray.pipeline.actor_plan import COMMIT_CPUS, READ_CPUS, ActorResources
from sam3lt_ray.pipeline.actors import CommitTask, LabelJob, SegmentActor, UnitOutcome, outcomes
from sam3lt_ray.pipeline.pass_guard import PassGuard
from sam3lt_ray.pipeline.placement import placement_of_committers, placement_of_readers
from sam3lt_ray.pipeline.source import UnitSource
from sam3lt_ray.stages.commit import UnitCommitter
from sam3lt_ray.stages.read import MissingUnitReader, ShardWork

if TYPE_CHECKING:
    import pyarrow as pa

# What fails is left to the next pass, not retried in this one: without bounds Ray restarts an actor for ever that an
# image kills, and every retry of a unit that kills its actor takes the units that wait for it along.
_TASK_RETRIES: Final = 0
_TASKS_IN_FLIGHT: Final = 2  # at work or waiting: what an actor's death takes with it
# Longer than any unit should take (256 images of a minute each): what stands still for so long is for the next pass.
_NO_PROGRESS_TIMEOUT_S: Final = 4 * 3600.0
_GROW_WHEN_TAKEN: Final = 0.9
# Tasks at once, for each actor that labels: what keeps it fed, with two readers for a GPU. Without a bound they would
# take all CPUs of nodes that join, and leave none for actors there.
_READERS_PER_ACTOR: Final = {"cuda": 2, "cpu": 1}
_FEWEST_READERS: Final = 2  # one may be waiting for storage
_COMMITTERS_PER_ACTOR: Final = 2
_RAY_LOST: Final = (LocalRayletDiedError, NodeDiedError, ObjectLostError, RaySystemError, RpcError)


class PassCutShortError(Exception):
    """A pass has ended before its work was done, for a reason that the next one may not meet: what Ray said of it."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one sweep does and with what."""

    reader: MissingUnitReader
    work: Sequence[ShardWork]
    job: LabelJob
    resources: ActorResources

    def run(self) -> Iterator[UnitOutcome]:
        """Stream over the missing units; yields each one that was committed, as it happens.

        Stopping the iteration early drops the units in flight and nothing else.

        Raises:
            PassCutShortError: Ray Data gave up an actor that had not begun, or nothing happened for hours.
            Sam3ltError: The run cannot go on.
        """
        _configure(DataContext.get_current())
        with warnings.catch_warnings():
            # Ray 2.60 announces the end of free-form remote arguments but has no named ones for placement and for
            # bounded retries yet.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated", RayDeprecationWarning)
            committed = self._commit(self._label(self._read()))
        tables = committed.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        try:
            for table in cast("Iterator[pa.Table]", iter(tables)):
                yield from outcomes(table)
        except ExecutionTimeoutError:
            raise PassCutShortError("nothing happened any more") from None
        except ActorDiedError as error:
            if error.actor_init_failed:  # it could not load the model, and says why
                raise _explain(error) from None
            raise PassCutShortError(_last_line(error)) from None
        except RayError as error:
            raise _explain(error) from None

    @property
    def _guard(self) -> PassGuard:
        return PassGuard(self.job.store, self.job.pass_id)

    def _read(self) -> Dataset:
        source = UnitSource(self.reader, self.work, self._guard)
        readers = _READERS_PER_ACTOR[self.resources.device] * self.resources.num_actors
        dataset: Dataset = ray.data.read_datasource(
            source,
            override_num_blocks=source.num_read_tasks(),
            num_cpus=READ_CPUS,
            concurrency=max(_FEWEST_READERS, readers),
            ray_remote_args=placement_of_readers(ray.nodes(), self.resources.device),
        )
        return dataset

    def _label(self, dataset: Dataset) -> Dataset:
        return dataset.map_batches(
            SegmentActor,
            fn_constructor_args=(self.job,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=self.resources.num_actors,
                max_size=self.resources.max_actors or self.resources.num_actors,
                max_tasks_in_flight_per_actor=_TASKS_IN_FLIGHT,
                # On a GPU the next unit's images are decoded and its first ones computed while the last ones of this
                # unit are written down. A unit that is labeled carefully is labeled alone.
                enable_true_multi_threading=True,
                max_concurrent_calls_per_actor=1 if self.job.careful else self.resources.units_at_once,
            ),
            num_cpus=self.resources.num_cpus,
            num_gpus=self.resources.num_gpus or None,
            max_restarts=-1,
            max_task_retries=_TASK_RETRIES,
        )

    def _commit(self, labeled: Dataset) -> Dataset:
        # Ray's type for batches knows no Arrow alone.
        commit: Any = CommitTask(UnitCommitter(self.job.store), self._guard).__call__
        return labeled.map_batches(
            commit,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=COMMIT_CPUS,
            compute=TaskPoolStrategy(size=_COMMITTERS_PER_ACTOR * self.resources.num_actors),
            **placement_of_committers(ray.nodes()),
        )


def _explain(error: RayError) -> Sam3ltError:
    """What an actor said when it could not start: Ray keeps of that exception only the text of its traceback."""
    name, _, message = str(error).rpartition(f"{errors.__name__}.")[2].partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, Sam3ltError) and not issubclass(kind, ImageError | ConfigError):
        return kind(message.strip())
    said = _last_line(error)
    if isinstance(error, _RAY_LOST):
        return RetryableRunError(ray_was_lost(said))
    return RunError(f"Ray gave up: {said}")


def _last_line(error: RayError) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def ray_was_lost(how: str) -> str:
    """What a person is told."""
    return (
        f"Ray was lost while the run went on ({how}). What was committed is kept; the same command continues the run "
        "as soon as there is a Ray again."
    )


def _configure(context: DataContext) -> None:
    """Settings of Ray Data that the protocol depends on."""
    # A row is never split, so a target far under any unit's size makes each unit a block of its own. Otherwise small
    # units are joined into one block, which is labeled by one actor and lost as one.
    context.target_max_block_size = 1
    context.max_errored_blocks = -1  # the ledger knows what failed
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = _NO_PROGRESS_TIMEOUT_S
    # A pool grows, where it may, when this share of its places is taken. Ray's own threshold of 1.75 is out of reach
    # for actors that get one unit beyond the one at work, or work on both.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = _GROW_WHEN_TAKEN
    # Fewer units than actors, or than tasks at once, are nobody's mistake. Said in a thread of Ray Data's own, so it
    # cannot be caught here.
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks", UserWarning)
