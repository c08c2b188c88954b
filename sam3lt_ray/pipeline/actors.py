"""The segment actor: holds the model and turns unit rows into label files; and the commit task behind it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import pyarrow as pa
import ray

from sam3lt_ray.errors import EXIT_RETRY, DeviceError, ImageError, Sam3ltError
from sam3lt_ray.labels.rows import Provenance, UnitCounts, build_rows, count_rows, encode_unit_file
from sam3lt_ray.logs import log_fields, name_run_in_logs
from sam3lt_ray.pipeline.pass_guard import PassGuard, end_process
from sam3lt_ray.pipeline.pass_marker import is_current
from sam3lt_ray.pipeline.start_notes import noted_start
from sam3lt_ray.records import ImageLabels, Unit
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.stages.careful import CarefulLabeler
from sam3lt_ray.stages.commit import UnitCommitter
from sam3lt_ray.stages.label import Engine, ImageLabeler, LabelTimings
from sam3lt_ray.stages.unit_table import table_to_units
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Vocabulary

logger = logging.getLogger(__name__)

_ASK_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class LabelJob:
    """All that a segment actor needs to know; pickled once per pass.

    Attributes:
        load_engine: Makes the engine with the vocabulary's prompts encoded; called once per actor process.
        vocabulary: The labels of the layer.
        careful: Label image by image and leave a note before each (see :mod:`sam3lt_ray.stages.careful`).
        image_timeout_s: A batch that takes longer ends the process; then the careful pass finds the image.
        pass_id: The pass this belongs to; an actor that outlives it ends itself.
        driver_id: The driver this belongs to.
    """

    load_engine: Callable[[], Engine]
    vocabulary: Vocabulary
    provenance: Provenance
    store: RunStore
    merge_iou: float
    max_pixels: int
    decode_threads: int
    loose_files: bool
    careful: bool
    image_timeout_s: float
    pass_id: str
    driver_id: str


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """What the driver learns about a unit that was labeled.

    Attributes:
        created: This start made the file; False: it was there already, or could not be stored.
        failure: Why the unit could not be stored, which leaves it missing; None: it is committed.
        failure_passes: Storage is away for a reason that passes.
        num_bytes: Of the label file.
        timings: With reading and writing.
        num_read_bytes: Of the unit's images, compressed.
        actor: Ray's id of the actor that labeled it.
        labeled_on: Address of that actor's node.
        read_on: Address of the node that read it.
        shard_bytes_per_image: See :attr:`sam3lt_ray.records.Unit.shard_bytes_per_image`.
    """

    shard: str
    path: str
    created: bool
    failure: str | None
    failure_passes: bool
    counts: UnitCounts
    num_bytes: int
    timings: LabelTimings
    num_read_bytes: int
    actor: str
    labeled_on: str
    read_on: str
    shard_bytes_per_image: float = 0.0


class SegmentActor:
    """Callable class for ``map_batches``: one unit row in, one row with the unit's label file out."""

    def __init__(self, job: LabelJob) -> None:
        self._job = job
        name_run_in_logs(without_credentials(job.store.uri))
        if not is_current(job.store, job.pass_id):
            raise RuntimeError("The pass of this actor is over.")  # a failed start frees what the actor holds
        self._whereabouts = _whereabouts()
        with noted_start(job.store, job.pass_id, self._whereabouts["actor"] or "alone"):
            engine = job.load_engine()
        self._labeler = ImageLabeler(
            engine,
            job.vocabulary,
            merge_iou=job.merge_iou,
            max_pixels=job.max_pixels,
            decode_threads=job.decode_threads,
        )
        self._careful = CarefulLabeler(self._labeler, job.store, job.driver_id)
        self._watchdog = Watchdog(job.image_timeout_s, lambda: is_current(job.store, job.pass_id))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Label the units of a batch: rows of :mod:`sam3lt_ray.stages.unit_table` in, a row per label file out."""
        return pa.Table.from_pylist([self._label(unit) for unit in table_to_units(table)])

    def _label(self, unit: Unit) -> dict[str, object]:
        with log_fields(shard=unit.shard, unit=unit.path):
            with self._watchdog.watching() as feed:
                results, timings = self._label_images(unit, feed)
            num_errors = sum(1 for result in results if isinstance(result, ImageError))
            logger.info("%d images labeled in %.1f s, %d errors", len(results), timings.wall_s, num_errors)
        rows = build_rows(unit, results, loose_files=self._job.loose_files)
        return {
            "shard": unit.shard,
            "path": unit.path,
            "file": encode_unit_file(unit, rows, self._job.provenance),
            "counts": json.dumps(count_rows(rows).to_json()),
            "timings": json.dumps(asdict(timings)),
            "read_s": unit.read_s,
            "num_read_bytes": unit.num_bytes,
            "read_on": unit.read_on,
            "shard_bytes_per_image": unit.shard_bytes_per_image,
            **self._whereabouts,
        }

    def _label_images(
        self, unit: Unit, feed: Callable[[], None]
    ) -> tuple[list[ImageLabels | ImageError], LabelTimings]:
        try:
            return self._label_quickly_or_carefully(unit, feed)
        except DeviceError as error:
            # As if the image had killed the process: then the careful pass finds it, and its neighbours are labeled.
            end_process(error.message)
            raise

    def _label_quickly_or_carefully(
        self, unit: Unit, feed: Callable[[], None]
    ) -> tuple[list[ImageLabels | ImageError], LabelTimings]:
        if not self._job.careful:
            return self._labeler.label_unit(unit, after_batch=feed)
        start = time.perf_counter()

        def before_image() -> None:
            # A note that is written for a pass which another driver has ended would be counted as a death of its image.
            if not is_current(self._job.store, self._job.pass_id):
                end_process("the pass is over")
            feed()

        results = self._careful.label_unit(unit, before_image)
        return results, self._labeler.timings(start)


def _whereabouts() -> dict[str, str]:
    """Who and where this process is, as the driver is told it; nobody in particular outside of Ray."""
    if not ray.is_initialized():
        return {"actor": "", "labeled_on": ""}
    actor = ray.get_runtime_context().get_actor_id()
    return {"actor": actor or "", "labeled_on": ray.util.get_node_ip_address()}


class CommitTask:
    """Function for ``map_batches``: commits label files and passes on the rest of the row.

    Args:
        committer: Stores a label file.
        guard: Of the pass.
    """

    def __init__(self, committer: UnitCommitter, guard: PassGuard) -> None:
        self._committer = committer
        self._guard = guard

    def __call__(self, table: pa.Table) -> pa.Table:
        """Commit the label files of a batch; the files themselves go no further.

        Storage that refuses one is told to the driver, which knows whether it refuses all of them.
        """
        rows = table.to_pylist()
        for row in rows:
            self._guard.touch()
            data = row.pop("file")
            row.update(created=False, failure="", failure_passes=False, num_bytes=len(data))
            start = time.perf_counter()
            try:
                row["created"] = self._committer(row["path"], data)
            except Sam3ltError as error:
                row.update(failure=error.message, failure_passes=error.exit_code == EXIT_RETRY)
            row["write_s"] = time.perf_counter() - start
        return pa.Table.from_pylist(rows)


def outcomes(table: pa.Table) -> list[UnitOutcome]:
    """Read the rows a :class:`CommitTask` made."""
    return [
        UnitOutcome(
            shard=row["shard"],
            path=row["path"],
            created=row["created"],
            failure=row["failure"] or None,
            failure_passes=row["failure_passes"],
            counts=UnitCounts.from_json(json.loads(row["counts"])),
            num_bytes=row["num_bytes"],
            timings=_timings(row),
            num_read_bytes=row["num_read_bytes"],
            actor=row["actor"],
            labeled_on=row["labeled_on"],
            read_on=row["read_on"],
            shard_bytes_per_image=row["shard_bytes_per_image"],
        )
        for row in table.to_pylist()
    ]


def _timings(row: dict[str, Any]) -> LabelTimings:
    timings = LabelTimings(**json.loads(row["timings"]))
    return replace(timings, part_seconds={"read": row["read_s"], **timings.part_seconds, "write": row["write_s"]})


class Watchdog:
    """Ends the process when it hangs, for a decoder or kernel cannot be interrupted, or when nobody wants it any more.

    Args:
        timeout_s: Longest time between two signs of life of a unit.
        is_wanted: Asked now and then between units.
    """

    def __init__(self, timeout_s: float, is_wanted: Callable[[], bool]) -> None:
        self._timeout_s = timeout_s
        self._is_wanted = is_wanted
        self._deadlines: dict[object, float] = {}  # one for each unit that is being labeled
        threading.Thread(target=self._watch, name="sam3lt-watchdog", daemon=True).start()

    @contextmanager
    def watching(self) -> Iterator[Callable[[], None]]:
        """Watches one unit; gives the function that says something was finished, which starts the time anew."""
        unit = object()

        def feed() -> None:
            self._deadlines[unit] = time.monotonic() + self._timeout_s

        feed()
        try:
            yield feed
        finally:
            del self._deadlines[unit]

    def _watch(self) -> None:
        next_question = time.monotonic() + _ASK_EVERY_S
        while True:
            time.sleep(min(1.0, self._timeout_s / 4))
            now = time.monotonic()
            deadlines = list(self._deadlines.values())
            if any(now > deadline for deadline in deadlines):
                end_process(f"no image was finished for {self._timeout_s:g} s")
            if now > next_question and not deadlines:
                next_question = now + _ASK_EVERY_S
                if not self._is_wanted():
                    end_process("the pass is over")
