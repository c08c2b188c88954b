"""How fast a device labels, and how large its labels are: measured on some images, in processes like a run's actors.

On a CPU a run has several actors, which slow each other: they share memory, caches, often cores. So as many processes
as the run would have actors label at the same time, instead of one whose speed is multiplied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from threading import BrokenBarrierError
from typing import Any, Final

from sam3lt_ray.errors import ImageError
from sam3lt_ray.labels.rows import Provenance, build_rows, encode_unit_file
from sam3lt_ray.pipeline.costs import OutputSize
from sam3lt_ray.records import EncodedImage, Unit, UnitRange
from sam3lt_ray.stages.label import Engine, ImageLabeler
from sam3lt_ray.vocabulary.labels import Vocabulary

_START_TIMEOUT_S: Final = 900.0
_NICENESS: Final = 15  # that of Ray's workers: on a busy machine others come first there too
_WARM_UP_BATCHES: Final = 2


class _Child:
    """What a child process was begun with."""

    barrier: Any = None


@dataclass(frozen=True, slots=True)
class CalibrationJob:
    """What labels: as :class:`sam3lt_ray.pipeline.actors.LabelJob`, without a run directory.

    Attributes:
        load_engine: Makes the engine with the prompts of ``vocabulary``; pickled to each process.
        vocabulary: The labels that are asked.
        provenance: What label files say about themselves; counts for their size.
    """

    load_engine: Callable[[], Engine]
    vocabulary: Vocabulary
    provenance: Provenance
    merge_iou: float
    max_pixels: int
    decode_threads: int
    loose_files: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What one process has measured.

    Attributes:
        images: Images labeled.
        errors: Those among them that became error rows.
        seconds: Without start-up and first images.
        output: Size of their labels.
    """

    images: int
    errors: int
    seconds: float
    output: OutputSize


def calibrate(job: CalibrationJob, images: Sequence[EncodedImage], num_processes: int) -> list[Measured]:
    """Label the images in several processes at once, all of them in each, and measure; nothing is kept.

    Args:
        job: What labels.
        images: At least one.
        num_processes: Processes at once.

    Raises:
        Sam3ltError: The engine cannot be loaded.
    """
    context = get_context("spawn")  # CUDA knows no fork, and the threads for torch are counted per process
    barrier = context.Barrier(num_processes)
    with ProcessPoolExecutor(num_processes, context, initializer=_begin_child, initargs=(barrier,)) as pool:
        futures = [
            pool.submit(_measure_in_child, job, [*images[start:], *images[:start]])
            for start in (number * len(images) // num_processes for number in range(num_processes))
        ]
        failures = [failure for future in futures if (failure := future.exception()) is not None]
    for failure in failures:
        if not isinstance(failure, BrokenBarrierError):  # what the others say when one has failed
            raise failure
    return [future.result() for future in futures]


def measure(job: CalibrationJob, images: Sequence[EncodedImage], ready: Callable[[], object]) -> Measured:
    """Label the images in this process.

    Args:
        job: What labels.
        images: At least one.
        ready: Called when the engine is loaded and warm, just before the clock starts.
    """
    engine = job.load_engine()
    labeler = ImageLabeler(
        engine,
        job.vocabulary,
        merge_iou=job.merge_iou,
        max_pixels=job.max_pixels,
        decode_threads=job.decode_threads,
    )
    labeler.label_unit(_as_unit(images[: _WARM_UP_BATCHES * engine.images_per_batch]))
    ready()
    start = time.perf_counter()
    unit = _as_unit(images)
    results, _ = labeler.label_unit(unit)
    rows = build_rows(unit, results, loose_files=job.loose_files)
    num_bytes = len(encode_unit_file(unit, rows, job.provenance))
    seconds = time.perf_counter() - start
    # What a file takes whatever is in it; without any row the columns' part of the footer would be missing.
    blank_bytes = len(encode_unit_file(unit, [{**rows[0], "instances": []}], job.provenance))
    output = OutputSize(max(0, num_bytes - blank_bytes) / len(images), float(blank_bytes))
    return Measured(len(images), sum(isinstance(result, ImageError) for result in results), seconds, output)


def _as_unit(images: Sequence[EncodedImage]) -> Unit:
    return Unit("calibration", UnitRange(0, len(images), is_last=True), tuple(images))


def _begin_child(barrier: Any) -> None:
    _Child.barrier = barrier
    os.nice(_NICENESS)


def _measure_in_child(job: CalibrationJob, images: Sequence[EncodedImage]) -> Measured:
    try:
        return measure(job, images, lambda: _Child.barrier.wait(_START_TIMEOUT_S))
    except BaseException:
        _Child.barrier.abort()
        raise
