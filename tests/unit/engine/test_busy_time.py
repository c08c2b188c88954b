from __future__ import annotations

import pytest
import torch

from sam3lt_ray.engine.busy_time import BusyTime


class _Mark:
    """A CUDA event of a device that is as far as ``reached``; the number says how many marks were set before it."""

    made = 0
    reached = 0

    def __init__(self, **_: bool) -> None:
        self.number = -1

    def record(self) -> None:
        self.number = _Mark.made
        _Mark.made += 1

    def query(self) -> bool:
        return self.number < _Mark.reached

    def synchronize(self) -> None:
        raise AssertionError("nobody shall wait")

    def elapsed_time(self, end: _Mark) -> float:
        assert end.query()
        return float(end.number - self.number)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> BusyTime:
    monkeypatch.setattr(torch.cuda, "Event", _Mark)
    monkeypatch.setattr(_Mark, "made", 0)
    monkeypatch.setattr(_Mark, "reached", 0)
    return BusyTime(torch.device("cuda"))


def test_marks_do_not_pile_up_where_nobody_asks(busy: BusyTime) -> None:
    for number in range(1000):
        _Mark.reached = 2 * (number - 3)  # the device is three sections behind
        with busy.section("vision"):
            pass
    assert len(busy._open) <= 4
    _Mark.reached = _Mark.made
    assert busy.seconds["vision"] == pytest.approx(1.0)
    assert len(busy._open) == 0


def test_what_has_not_ended_is_not_waited_for(busy: BusyTime) -> None:
    with busy.section("masks"):
        pass
    assert busy.seconds["masks"] == 0.0
