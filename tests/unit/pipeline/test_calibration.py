"""Measuring with a stand-in whose speed is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import pytest

from sam3lt_ray.errors import CheckpointError
from sam3lt_ray.labels.rows import Provenance
from sam3lt_ray.pipeline.calibration import CalibrationJob, calibrate, measure
from sam3lt_ray.records import EncodedImage
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from tests.standin import StandInEngine, plain_image

SECONDS_PER_IMAGE = 0.002


def _refuse() -> StandInEngine:
    raise CheckpointError("no such checkpoint")


def _job(load_engine: object = None) -> CalibrationJob:
    load = load_engine or partial(StandInEngine, 2, SECONDS_PER_IMAGE)
    labels = (Label(1, "cat", ("cat",)), Label(2, "dog", ("dog",)))
    provenance = Provenance("f00d", {}, ((1, "cat"), (2, "dog")))
    return CalibrationJob(load, Vocabulary(labels, "test"), provenance, 0.7, 10**6, 1, loose_files=False)  # type: ignore[arg-type]


def _images(count: int) -> Sequence[EncodedImage]:
    return [EncodedImage(n, f"{n}.png", plain_image((n % 200, 5, 7), (60, 40))) for n in range(count)]


def test_measures_what_is_after_start_up_and_the_size_of_labels() -> None:
    ready_at: list[float] = []
    start = time.perf_counter()
    measured = measure(_job(), _images(20), lambda: ready_at.append(time.perf_counter()))
    wall_s = time.perf_counter() - start
    assert ready_at
    assert 20 * SECONDS_PER_IMAGE <= measured.seconds < wall_s
    assert measured.seconds <= time.perf_counter() - ready_at[0]
    assert (measured.images, measured.errors) == (20, 0)
    assert measured.output.bytes_per_image > 10
    assert measured.output.bytes_per_unit > 1_000  # the footer


def test_unusable_images_are_part_of_the_input() -> None:
    measured = measure(_job(), [*_images(3), EncodedImage(3, "x.png", b"no image")], lambda: None)
    assert (measured.images, measured.errors) == (4, 1)


def test_processes_label_at_the_same_time_and_failures_come_as_they_are() -> None:
    measured = calibrate(_job(), _images(5), 2)
    assert [one.images for one in measured] == [5, 5]
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        calibrate(_job(_refuse), _images(2), 1)
