from __future__ import annotations

from typing import Any

import pytest

from sam3lt_ray.benchmark.options import BenchmarkOptions
from sam3lt_ray.errors import UsageError


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"prompt_counts": (0,)}, "--prompts 0"),
        ({"prompt_counts": (2001,)}, "2,000"),
        ({"prompt_counts": (5, 5)}, "twice"),
        ({"contenders": ("careful",)}, "documented, sam3lt, compiled"),
        ({"budget_minutes": 0.0}, "--budget-minutes"),
        ({"num_images": 0}, "--images"),
    ],
)
def test_wrong_options_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        BenchmarkOptions(**wrong).check()


def test_quick_is_the_demo_on_the_cpu() -> None:
    options = BenchmarkOptions(quick=True)
    options.check()
    assert (options.chosen_checkpoint, options.chosen_device) == ("demo", "cpu")
    assert BenchmarkOptions(quick=True, device="cuda").chosen_device == "cuda"
    assert (BenchmarkOptions().chosen_checkpoint, BenchmarkOptions().chosen_device) == ("full", "auto")


def test_contenders_keep_their_order() -> None:
    assert BenchmarkOptions(contenders=("compiled", "documented")).chosen_contenders == ("documented", "compiled")
