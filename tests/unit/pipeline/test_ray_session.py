"""The end of a session: nobody may ask Ray for anything after its shutdown."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import ray

from sam3lt_ray.config.schema import ComputeSettings
from sam3lt_ray.errors import UsageError
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


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that Ray is asked to join; nobody is waited for."""
    addresses: list[str] = []
    monkeypatch.setattr(ray, "init", lambda *, address, **_: addresses.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(module, "_PAUSES_S", (0.0, 0.0))
    return addresses


def test_an_address_where_nobody_listens_is_refused_before_ray_waits_for_it(joined: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, so that nobody else listens there; but it does not listen
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with (
            pytest.raises(UsageError, match=f"No Ray cluster answers at '{address}'"),
            ray_session(ComputeSettings(ray_address=address), verbose=True),
        ):
            pass
    assert joined == []


def test_a_head_that_is_just_starting_is_waited_for(joined: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(module, "takes_connections", lambda endpoint: (endpoint.port == 6379) and next(answers))
    with ray_session(ComputeSettings(ray_address="[fd00::1]:6379"), verbose=True) as may_grow:
        assert may_grow
    assert joined == ["[fd00::1]:6379"]
    assert list(answers) == []


@pytest.mark.parametrize("address", ["auto", "ray://head:10001"])
def test_other_addresses_are_left_to_ray(joined: list[str], monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(module, "takes_connections", lambda _: pytest.fail("asked"))
    with ray_session(ComputeSettings(ray_address=address), verbose=True):
        pass
    assert joined == [address]
