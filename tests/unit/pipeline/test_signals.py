"""A request to stop is heard even where the exception it raises is swallowed."""

from __future__ import annotations

import os
import signal

import pytest

from sam3lt_ray.pipeline.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_interrupt_is_raised_at_the_next_check(number: signal.Signals) -> None:
    stop = StopRequest()
    before = signal.getsignal(number)
    with stop.listening():
        stop.check()
        with pytest.raises(KeyboardInterrupt):  # as foreign code swallows it
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            stop.check()
    assert signal.getsignal(number) is before


def test_listening_again_takes_the_signals_back_from_others() -> None:
    stop = StopRequest()
    with stop.listening():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with stop.listening(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
