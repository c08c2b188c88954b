"""How fast a device labels, and how large its labels are: measured on some images, in processes like a run's actors.

On a CPU a run has several actors, which slow each other: they share memory, caches, often cores. So as many processes
as the run would have actors label at the same time, instead of one whose speed is multiplied.

Other programs come and go while this measures. So the images are labeled in several rounds, whose median counts, and
each round asks every set of labels: what disturbs one of them disturbs the others as well.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import fmean, median
from typing import Any, Final

from sam3lt_ray.errors import ImageError
from sam3lt_ray.labels.rows import Provenance, build_rows, encode_unit_file
from sam3lt_ray.pipeline.costs import OutputSize
from sam3lt_ray.records import EncodedImage, Unit, UnitRange
from sam3lt_ray.stages.label import Engine, ImageLabeler
from sam3lt_ray.vocabulary.labels import Vocabulary

_NICENESS: Final = 15  # that of Ray's workers: on a busy machine others come first there too
_WARM_UP_BATCHES: Final = 2
# Rounds go on until each set of labels was measured for so long, so often at least; and no longer than the last.
_ENOUGH_S: Final = 10.0
_ENOUGH_ROUNDS: Final = 3
_TOO_LONG_S: Final = 60.0


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
    """What one process has measured in one round.

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


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured for one set of labels.

    Attributes:
        rounds: For each round what its processes have measured at the same time; at least one of one.
    """

    rounds: tuple[tuple[Measured, ...], ...]

    @property
    def num_processes(self) -> int:
        """Processes that labeled at once."""
        return len(self.rounds[0])

    @property
    def rates(self) -> tuple[float, ...]:
        """Images per second of all processes together, round by round."""
        return tuple(math.fsum(one.images / one.seconds for one in of_round) for of_round in self.rounds)

    @property
    def images_per_s(self) -> float:
        """Of all processes together, in the middle round."""
        return median(self.rates)

    @property
    def output(self) -> OutputSize:
        """Size of labels; every round gives the same."""
        sizes = [one.output for one in self.rounds[0]]
        return OutputSize(fmean(one.bytes_per_image for one in sizes), fmean(one.bytes_per_unit for one in sizes))


def calibrate(jobs: Sequence[CalibrationJob], images: Sequence[EncodedImage], num_processes: int) -> list[Calibration]:
    """Label the images in several processes at once, all of them in each, and measure; nothing is kept.

    Args:
        jobs: What labels, for each set of labels.
        images: At least one.
        num_processes: Processes at once.

    Raises:
        Sam3ltError: An engine cannot be loaded.
    """
    context = get_context("spawn")  # CUDA knows no fork, and the threads for torch are counted per process
    with ExitStack() as stack:
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, initializer=os.nice, initargs=(_NICENESS,)))
            for _ in range(num_processes)
        ]
        starts = [number * len(images) // num_processes for number in range(num_processes)]
        loading = [
            pool.submit(_load_in_child, jobs, [*images[start:], *images[:start]])
            for pool, start in zip(pools, starts, strict=True)
        ]
        for future in loading:
            future.result()
        rounds: list[list[tuple[Measured, ...]]] = []
        while not _is_enough(rounds):
            rounds.append([])
            for position in range(len(jobs)):
                measuring = [pool.submit(_measure_in_child, position) for pool in pools]
                rounds[-1].append(tuple(future.result() for future in measuring))
    return [Calibration(tuple(of_round[position] for of_round in rounds)) for position in range(len(jobs))]


def _is_enough(rounds: Sequence[Sequence[Sequence[Measured]]]) -> bool:
    if not rounds:
        return False
    sums_s = [
        math.fsum(max(one.seconds for one in of_round) for of_round in of_job) for of_job in zip(*rounds, strict=True)
    ]
    return (len(rounds) >= _ENOUGH_ROUNDS and min(sums_s) >= _ENOUGH_S) or sum(sums_s) >= _TOO_LONG_S


class WarmLabeler:
    """What one process measures one set of labels with: loaded, and past its first images.

    Args:
        job: What labels.
        images: At least one.
    """

    def __init__(self, job: CalibrationJob, images: Sequence[EncodedImage]) -> None:
        self._job = job
        self._unit = _as_unit(images)
        engine = job.load_engine()
        self._labeler = ImageLabeler(
            engine,
            job.vocabulary,
            merge_iou=job.merge_iou,
            max_pixels=job.max_pixels,
            decode_threads=job.decode_threads,
        )
        self._labeler.label_unit(_as_unit(images[: _WARM_UP_BATCHES * engine.images_per_batch]))

    def measure(self) -> Measured:
        """Label the images once."""
        job, unit = self._job, self._unit
        start = time.perf_counter()
        results, _ = self._labeler.label_unit(unit)
        rows = build_rows(unit, results, loose_files=job.loose_files)
        num_bytes = len(encode_unit_file(unit, rows, job.provenance))
        seconds = time.perf_counter() - start
        # What a file takes whatever is in it; without any row the columns' part of the footer would be missing.
        blank_bytes = len(encode_unit_file(unit, [{**rows[0], "instances": []}], job.provenance))
        count = len(unit.images)
        output = OutputSize(max(0, num_bytes - blank_bytes) / count, float(blank_bytes))
        return Measured(count, sum(isinstance(result, ImageError) for result in results), seconds, output)


def _as_unit(images: Sequence[EncodedImage]) -> Unit:
    return Unit("calibration", UnitRange(0, len(images), is_last=True), tuple(images))


class _Child:
    """What a child process has loaded, in the order of the jobs."""

    labelers: Any = ()


def _load_in_child(jobs: Sequence[CalibrationJob], images: Sequence[EncodedImage]) -> None:
    _Child.labelers = [WarmLabeler(job, images) for job in jobs]


def _measure_in_child(position: int) -> Measured:
    measured: Measured = _Child.labelers[position].measure()
    return measured
