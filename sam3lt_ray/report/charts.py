"""Score histograms as plain SVG geometry; the template only draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 1000.0
HEIGHT: Final = 220.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram in the chart's units; ``title`` is shown when pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str
    is_exported: bool


def score_bars(histogram: Sequence[int], score_threshold: float, num_bars: int = 50) -> list[Bar]:
    """Bars over scores from 0 to 1.

    Args:
        histogram: Counts in equal bins over [0, 1]; a multiple of ``num_bars``.
        score_threshold: Bars from here on stand out.
        num_bars: How many bars.
    """
    counts = _merge(histogram, num_bars)
    tallest = max(*counts, 1)
    step = WIDTH / num_bars
    bars = []
    for position, count in enumerate(counts):
        # A single instance among millions is still seen.
        height = max(2.0, HEIGHT * count / tallest) if count else 0.0
        start, end = position / num_bars, (position + 1) / num_bars
        title = f"{start:.2f} to {end:.2f}: {count:,}"
        is_exported = start >= score_threshold - 1e-9
        bars.append(Bar(position * step + 1, HEIGHT - height, step - 2, height, title, is_exported))
    return bars


def sparkline(histogram: Sequence[int], width: float = 90.0, height: float = 18.0, num_points: int = 25) -> str:
    """A small filled curve of a score histogram as the ``d`` of an SVG path; empty without counts."""
    counts = _merge(histogram, num_points)
    if not any(counts):
        return ""
    step = width / (num_points - 1)
    points = [(n * step, height * (1 - count / max(counts))) for n, count in enumerate(counts)]
    line = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f"M0,{height:g} L{line} L{width:g},{height:g} Z"


def _merge(histogram: Sequence[int], num_bins: int) -> list[int]:
    size = len(histogram) // num_bins
    if size * num_bins != len(histogram):
        raise ValueError(f"{len(histogram)} bins cannot be merged into {num_bins}")
    return [sum(histogram[start : start + size]) for start in range(0, len(histogram), size)]
