from __future__ import annotations

import pytest

from sam3lt_ray.durations import format_duration, format_rough_duration


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (63.4, "1:03"), (3723, "1:02:03"), (59.6, "1:00")])
def test_to_the_second(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2.0 h"), (9e6, "2,500.0 h")],
)
def test_roughly(seconds: float, text: str) -> None:
    assert format_rough_duration(seconds) == text
