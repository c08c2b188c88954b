"""A request to stop is heard even where the exception it raises is swallowed."""

from __future__ import annotations

import os
import signal
import threading

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


def test_a_process_that_cannot_stop_in_good_order_is_ended() -> None:
    ended, codes = threading.Event(), []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    stop = StopRequest(0.01, end)
    with stop.listening(), stop.listening():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended.wait(60)  # as it does for storage that does not answer
    assert codes == [75]


def test_a_process_that_has_stopped_is_not_ended() -> None:
    stop = StopRequest(3600.0)
    with stop.listening(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    for timer in timers:
        timer.join(60)
    assert not any(timer.is_alive() for timer in timers)
