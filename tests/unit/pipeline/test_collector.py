from __future__ import annotations

import gc

import pytest

from sam3lt_ray.pipeline.collector import collector_paused


@collector_paused()
def _fail() -> None:
    assert not gc.isenabled()
    raise KeyError


def test_it_comes_back_whatever_happens() -> None:
    with pytest.raises(KeyError):
        _fail()
    assert gc.isenabled()


def test_who_paused_it_before_keeps_it_paused() -> None:
    with collector_paused():
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
