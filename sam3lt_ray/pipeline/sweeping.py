"""Sweeping a layer: pass after pass over what is missing of it, until nothing is, or nothing more can be done."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from sam3lt_ray.errors import InputError, StorageError, UsageError
from sam3lt_ray.logs import LogFormat
from sam3lt_ray.pipeline.actor_plan import ActorResources, plan_actors
from sam3lt_ray.pipeline.actors import LabelJob
from sam3lt_ray.pipeline.bookkeeping import Bookkeeping
from sam3lt_ray.pipeline.engine_factory import EngineFactory
from sam3lt_ray.pipeline.pass_marker import marked_pass
from sam3lt_ray.pipeline.passes import Pass, PassCutShortError
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.pipeline.signals import StopRequest
from sam3lt_ray.pipeline.worklist import LayerWork
from sam3lt_ray.progress import ProgressListener
from sam3lt_ray.stages.careful import read_notes
from sam3lt_ray.stages.read import ShardWork
from sam3lt_ray.storage.layers import Layer
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.vocabulary.labels import Vocabulary

# Passes in a row that were cut short before anything was committed: whatever cuts them short will not go away.
_MAX_CUT_SHORT: Final = 3


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


class Sweeper:
    """Makes the passes of one start.

    Args:
        prepared: The run.
        books: Where each unit is entered.
        lease: Held on the run.
        stop: Whether somebody wants it to end.
        listener: Told of further passes.
        options: How the start goes on.
        may_grow: Ray's cluster may get more nodes.

    Attributes:
        resources: The pool of actors of the latest pass, or of the first one.

    Raises:
        UsageError: No pool fits the cluster.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        books: Bookkeeping,
        lease: Lease,
        stop: StopRequest,
        listener: ProgressListener,
        options: SessionOptions,
        *,
        may_grow: bool,
    ) -> None:
        self._prepared = prepared
        self._books = books
        self._lease = lease
        self._stop = stop
        self._listener = listener
        self._options = options
        self._may_grow = may_grow
        self.resources = self._plan_actors()

    def sweep_until_complete(self, work: LayerWork) -> LayerWork | None:
        """Passes over one layer.

        Returns:
            What is left of it in the end; None when it was ended early: the limit of images is reached, or there are
            too many errors.
        """
        max_passes = self._prepared.config.compute.max_passes
        store, layer = self._prepared.store, work.layer.name
        passes, full_passes, cut_short = 0, 0, 0
        while work.shards and cut_short < _MAX_CUT_SHORT:
            # A pass that was cut short says nothing against the images that are left.
            careful = full_passes > 0 and full_passes + 1 >= max_passes
            passes += 1
            if passes > 1:
                self.resources = self._plan_again()
                how = "image by image" if careful else "again"
                self._listener.message(f"Pass {passes}: {count_shards(work.shards)} incomplete; trying {how}.")
            self._books.begin_pass(self.resources)
            before = self._books.tally.units, read_notes(store, layer)
            try:
                if self._is_enough_after_sweep(work, careful=careful):
                    return None
                full_passes += 1
                is_cut_short = False
            except PassCutShortError as error:
                self._books.last_loss = str(error)
                self._listener.message(f"Pass {passes} was cut short: {error}")
                is_cut_short = True
            coverage = self._prepared.coverage()
            self._books.totals.forget_missing(coverage.all_paths())
            work = work.remaining(coverage)
            # A careful pass that commits nothing may still have found out more about what kills its process: each death
            # is noted, and two deaths exclude an image, so this ends.
            is_progress = (self._books.tally.units, read_notes(store, layer)) != before
            cut_short = cut_short + 1 if is_cut_short and not is_progress else 0
            if full_passes >= max_passes and not is_progress:
                break
        return work

    def _plan_actors(self) -> ActorResources:
        weight_bytes = self._prepared.checkpoint.weight_bytes
        return plan_actors(self._prepared.config.compute, weight_bytes, may_grow=self._may_grow)

    def _plan_again(self) -> ActorResources:
        """The pool for the cluster as it is now: what left work over may have been the loss of a node."""
        with suppress(UsageError):
            planned = self._plan_actors()
            if planned.device == self.resources.device:  # GPUs that are gone are waited for
                return planned
        return self.resources

    def _is_enough_after_sweep(self, work: LayerWork, *, careful: bool) -> bool:
        """One pass; whether it was ended early: the limit of images is reached, or there are too many errors."""
        self._lease.confirm()
        with marked_pass(self._prepared.store) as pass_id:
            job = self._job(work.layer, careful, pass_id)
            for outcome in Pass(self._prepared.reader(), work.shards, job, self.resources).run():
                self._stop.check()
                self._books.add(outcome)
                # Nothing is written here; what cannot be asked now is asked again.
                with suppress(InputError, StorageError):
                    self._lease.confirm()
                if self._books.is_enough:
                    return True
        return False

    def _job(self, layer: Layer, careful: bool, pass_id: str) -> LabelJob:
        prepared, config, resources = self._prepared, self._prepared.config, self.resources
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
            driver_id=self._lease.holder,
        )


def count_shards(work: Sequence[ShardWork]) -> str:
    """As in: 1 shard, 2 shards."""
    return f"{len(work)} shard{'' if len(work) == 1 else 's'}"
