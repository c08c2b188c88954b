"""Counts, rates, and the two ways of showing them."""

from __future__ import annotations

import io
import json

import pytest

from sam3lt_ray.progress import (
    JsonProgress,
    LogProgress,
    ProgressListener,
    SilentProgress,
    TerminalProgress,
    progress_for_stderr,
)
from sam3lt_ray.progress_tally import Tally


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_rate_counts_this_start_only() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.plan(total_images=1000, done_images=400, done_units=4)
    assert tally.images_per_s is None
    clock.now_s += 10
    tally.add(images=100, errors=2, instances=50)
    assert tally.images_per_s == 10
    assert tally.remaining_s == 50
    assert tally.describe() == "500 of 1,000 images, 10.0 images/s, 0:50 left, 50 instances, 2 errors"


def test_a_better_known_total_does_not_reset_what_was_done() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.plan(total_images=None, done_images=0, done_units=0)
    clock.now_s += 1
    tally.add(images=5, errors=1, instances=0)
    tally.plan(total_images=20, done_images=0, done_units=0)
    assert tally.describe() == "5 of 20 images, 5.0 images/s, 0:03 left, 0 instances, 1 error"


def test_unknown_total_is_left_out() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.plan(None, 0, 0)
    clock.now_s += 2
    tally.add(images=5, errors=0, instances=3)
    assert tally.describe() == "5 images, 2.5 images/s, 3 instances, 0 errors"


def test_one_of_each_is_said_as_people_say_it() -> None:
    tally = Tally(clock=Clock())
    tally.plan(None, 0, 0)
    tally.add(images=1, errors=1, instances=1)
    assert tally.describe() == "1 image, 1 instance, 1 error"
    tally.plan(total_images=1, done_images=0, done_units=0)
    assert tally.describe().startswith("1 of 1 image,")


def test_a_guessed_total_is_marked_and_never_under_what_is_done() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.plan(total_images=None, done_images=2, done_units=1, is_estimate=True)
    clock.now_s += 1
    tally.plan(total_images=1_020, done_images=2, done_units=1, is_estimate=True)
    tally.add(images=10, errors=0, instances=0)
    assert tally.describe().startswith("12 of ~1,020 images, 10.0 images/s, ~1:41 left, ")
    assert tally.to_json()["images_total_is_estimate"] is True
    tally.plan(total_images=11, done_images=2, done_units=1)
    assert tally.describe().startswith("12 of 12 images, 10.0 images/s, 0:00 left, ")


def test_log_is_one_line_every_interval_and_a_last_one() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = LogProgress(stream, interval_s=10, clock=clock)
    progress.plan_known(total_images=100)
    for _ in range(9):
        clock.now_s += 3
        progress.unit_done(images=5, errors=0, instances=1)
    progress.message("Pass 2: one shard incomplete.")
    progress.finish()
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "20 of 100 images",
        "40 of 100 images",
        "Pass 2: one shard incomplete.",
        "45 of 100 images",
    ]


def test_log_of_nothing_is_empty() -> None:
    stream = io.StringIO()
    progress = LogProgress(stream)
    progress.plan_known(total_images=0)
    progress.finish()
    assert stream.getvalue() == ""


def test_terminal_shows_counts_and_messages(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TerminalProgress()
    progress.plan_known(total_images=10)
    progress.message("Continuing the run in [b]runs/x[/b].")
    progress.unit_done(images=5, errors=1, instances=7)
    progress.finish()
    progress.finish()
    text = capsys.readouterr().err
    assert "[b]runs/x[/b]" in text, "messages are text, not markup"
    assert "5 of 10 images" in text


def test_terminal_that_was_never_started_can_finish() -> None:
    TerminalProgress().finish()


def test_piped_stderr_gets_plain_lines() -> None:
    assert isinstance(progress_for_stderr("runs/x"), LogProgress)


def test_all_are_listeners() -> None:
    listeners: list[ProgressListener] = [SilentProgress(), LogProgress(io.StringIO()), TerminalProgress()]
    for listener in listeners:
        listener.plan_known(total_images=1)
        listener.unit_done(images=1, errors=0, instances=0)
        listener.message("x")
        listener.finish()


def test_json_lines_have_the_run_the_time_and_the_numbers() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = JsonProgress("s3://bucket/run", stream, interval_s=0.0, clock=clock)
    progress.plan_known(total_images=40)
    progress.message('Pass 2: "a.tar" again.')
    clock.now_s += 2.0
    progress.unit_done(images=10, errors=1, instances=7, busy_share=0.5)
    progress.finish()
    message, counts = (json.loads(line) for line in stream.getvalue().splitlines())
    assert message.pop("time") <= counts.pop("time")
    assert message == {"run": "s3://bucket/run", "event": "message", "message": 'Pass 2: "a.tar" again.'}
    assert counts == {
        "run": "s3://bucket/run",
        "event": "progress",
        "images_done": 10,
        "images_total": 40,
        "images_total_is_estimate": False,
        "units_done": 1,
        "images_per_s": 5.0,
        "remaining_s": 6.0,
        "instances": 7,
        "errors": 1,
        "busy_share": 0.5,
    }


def test_how_busy_the_devices_are_is_said_where_it_is_known() -> None:
    tally = Tally(clock=Clock())
    tally.add(4, 0, 0)
    assert "busy" not in tally.describe()
    tally.add(4, 0, 0, busy_share=0.934)
    assert "devices 93 % busy" in tally.describe()
