"""Geometry of the histograms."""

from __future__ import annotations

import pytest

from sam3lt_ray.report.charts import HEIGHT, score_bars, sparkline
from sam3lt_ray.report.format import format_count, format_duration, format_percent, format_share


def _histogram(**counts: int) -> list[int]:
    values = [0] * 100
    for name, count in counts.items():
        values[int(name[1:])] = count
    return values


def test_bars_add_up_neighbouring_bins_and_keep_their_share() -> None:
    bars = score_bars(_histogram(b20=4, b21=6, b90=5), 0.5)
    assert len(bars) == 50
    drawn = [(bar.title, round(bar.height, 3), bar.is_exported) for bar in bars if bar.height]
    assert drawn == [("0.20 to 0.22: 10", HEIGHT, False), ("0.90 to 0.92: 5", HEIGHT / 2, True)]
    assert all(bar.y + bar.height == pytest.approx(HEIGHT) for bar in bars)
    assert [bar.x for bar in bars] == sorted({bar.x for bar in bars})


def test_one_among_millions_is_still_seen() -> None:
    bars = score_bars(_histogram(b50=3_000_000, b99=1), 0.5)
    assert bars[-1].height == 2.0


def test_bars_at_the_threshold_stand_out_whatever_floats_do() -> None:
    assert [bar.is_exported for bar in score_bars([1] * 100, 0.3)].index(True) == 15
    assert not any(bar.height for bar in score_bars([0] * 100, 0.3))


def test_sparkline_is_a_closed_path_or_nothing() -> None:
    assert sparkline([0] * 100) == ""
    path = sparkline(_histogram(b99=3))
    assert path.startswith("M0,18 L0.0,18.0 L")
    assert path.endswith("L90.0,0.0 L90,18 Z")


def test_bins_must_fit() -> None:
    with pytest.raises(ValueError, match="99 bins"):
        score_bars([0] * 99, 0.5)


def test_numbers_are_written_for_people() -> None:
    assert [format_count(value) for value in (None, 0, 1234567)] == ["-", "0", "1,234,567"]
    assert [format_share(value) for value in (None, 0.98765)] == ["-", "0.988"]
    assert [format_percent(value) for value in (None, 0.0123)] == ["-", "1.2 %"]
    durations = [format_duration(value) for value in (None, 4.26, 59.99, 75.2, 7260.0)]
    assert durations == ["-", "4.3 s", "60.0 s", "1 min 15 s", "2 h 1 min"]
