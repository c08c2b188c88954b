"""The end of a session: nobody may ask Ray for anything after its shutdown."""

from __future__ import annotations

import threading
import time

import pytest
import ray

from sam3lt_ray.config.schema import ComputeSettings
from sam3lt_ray.pipeline import ray_session as module
from sam3lt_ray.pipeline.ray_session import ray_session


@pytest.mark.parametrize(
    ("name", "is_awaited"), [("iter_threaded", True), ("StreamingExecutor-7", True), ("mine", False)]
)
def test_threads_that_ray_data_left_are_awaited(monkeypatch: pytest.MonkeyPatch, name: str, is_awaited: bool) -> None:
    alive_at_shutdown = []
    over = threading.Event()
    thread = threading.Thread(target=lambda: over.wait(0.5), name=name, daemon=True)
    monkeypatch.setattr(module, "_connect", lambda *_, **__: thread.start())
    monkeypatch.setattr(ray, "shutdown", lambda: alive_at_shutdown.append(thread.is_alive()))
    with pytest.raises(KeyboardInterrupt), ray_session(ComputeSettings(ray_address="there"), verbose=True):
        raise KeyboardInterrupt
    over.set()
    thread.join()
    assert alive_at_shutdown == [not is_awaited]


def test_a_thread_that_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="iter_threaded", daemon=True)
    monkeypatch.setattr(module, "_THREADS_END_WITHIN_S", 0.1)
    monkeypatch.setattr(module, "_connect", lambda *_, **__: thread.start())
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    begun_s = time.monotonic()
    with ray_session(ComputeSettings(ray_address="there"), verbose=True):
        pass
    assert time.monotonic() - begun_s < 5.0
    assert thread.is_alive()
    over.set()
    thread.join()
