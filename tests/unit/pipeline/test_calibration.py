"""Measuring with a stand-in whose speed is known."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.errors import CheckpointError
from sam3lt_ray.labels.rows import Provenance
from sam3lt_ray.pipeline import calibration as calibration_module
from sam3lt_ray.pipeline.calibration import Calibration, CalibrationJob, Measured, WarmLabeler, _is_enough, calibrate
from sam3lt_ray.pipeline.costs import OutputSize
from sam3lt_ray.records import EncodedImage
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from tests.standin import StandInEngine, plain_image

SECONDS_PER_IMAGE = 0.002


def _refuse() -> StandInEngine:
    raise CheckpointError("no such checkpoint")


class _LoggingEngine(StandInEngine):
    def __init__(self, log: str, name: str) -> None:
        super().__init__(2)
        self._line = f"{os.getpid()}:{name} "
        self._log = log

    def submit(self, *arguments: Any) -> Any:
        with Path(self._log).open("a") as log:
            log.write(self._line)
        return super().submit(*arguments)


def _job(load_engine: object = None) -> CalibrationJob:
    load = load_engine or partial(StandInEngine, 2, SECONDS_PER_IMAGE)
    labels = (Label(1, "cat", ("cat",)), Label(2, "dog", ("dog",)))
    provenance = Provenance("f00d", {}, ((1, "cat"), (2, "dog")))
    return CalibrationJob(load, Vocabulary(labels, "test"), provenance, 0.7, 10**6, 1, loose_files=False)  # type: ignore[arg-type]


def _images(count: int) -> Sequence[EncodedImage]:
    return [EncodedImage(n, f"{n}.png", plain_image((n % 200, 5, 7), (60, 40))) for n in range(count)]


def _measured(seconds: float, images: int = 10) -> Measured:
    return Measured(images, 0, seconds, OutputSize(1.0, 2.0))


def test_measures_what_is_after_start_up_and_the_size_of_labels() -> None:
    labeler = WarmLabeler(_job(), _images(20))
    start = time.perf_counter()
    measured = labeler.measure()
    assert 20 * SECONDS_PER_IMAGE <= measured.seconds < time.perf_counter() - start
    assert (measured.images, measured.errors) == (20, 0)
    assert measured.output.bytes_per_image > 10
    assert measured.output.bytes_per_unit > 1_000  # the footer


def test_unusable_images_are_part_of_the_input() -> None:
    measured = WarmLabeler(_job(), [*_images(3), EncodedImage(3, "x.png", b"no image")]).measure()
    assert (measured.images, measured.errors) == (4, 1)


def test_a_round_that_was_disturbed_does_not_count() -> None:
    quiet, disturbed = (_measured(2.0), _measured(2.5)), (_measured(20.0), _measured(9.0))
    calibration = Calibration((quiet, disturbed, quiet))
    assert calibration.images_per_s == 5.0 + 4.0
    assert min(calibration.rates) == pytest.approx(10 / 20 + 10 / 9)
    assert calibration.num_processes == 2


@pytest.mark.parametrize(
    ("rounds", "enough"),
    [
        ([], False),
        ([[[4.0], [5.0]]] * 2, False),  # too few
        ([[[4.0], [3.0]]] * 3, False),  # the second set was measured for 9 s
        ([[[4.0], [3.5]]] * 3, True),
        ([[[40.0, 30.0], [21.0, 1.0]]], True),  # slow: nobody wants to wait for two more
    ],
)
def test_rounds_go_on_until_each_set_was_measured_long_and_often_enough(
    rounds: list[list[list[float]]], enough: bool
) -> None:
    assert _is_enough([[[_measured(s) for s in of_job] for of_job in one] for one in rounds]) is enough


def test_sets_of_labels_take_turns_in_processes_that_label_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_module, "_ENOUGH_S", 0.0)
    log = tmp_path / "log"
    jobs = [_job(partial(_LoggingEngine, str(log), name)) for name in "ab"]
    calibrations = calibrate(jobs, _images(5), 2)
    assert [len(one.rounds) for one in calibrations] == [3, 3]
    assert [one.images for one in calibrations[0].rounds[0]] == [5, 5]
    lines = log.read_text().split()
    process = lines[0].partition(":")[0]
    asked = [name for line in lines for pid, _, name in [line.partition(":")] if pid == process]
    order = [name for name, _ in itertools.groupby(asked)]
    assert order == ["a", "b"] * 4  # warm-up, three rounds
    assert len({line.partition(":")[0] for line in lines}) == 2


def test_failures_come_as_they_are() -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        calibrate([_job(_refuse)], _images(2), 1)
