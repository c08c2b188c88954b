"""Draws what bench_shards measured: ``python -m tests.benchmarks.plot_shards SHARDS.json docs/benchmarks/shards.svg``.

Two panels with logarithmic axes, in which what grows in proportion is a straight line of slope 1 once fixed costs are
passed; the dashed line has that slope.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 360, 260, 52
INK, COLORS = "#333", ("#0969da", "#bc4c00")


def panel(left: int, title: str, unit: str, x: Sequence[float], series: dict[str, Sequence[float]]) -> list[str]:
    """One set of axes with lines."""
    low_x, high_x = math.log10(x[0]), math.log10(x[-1])
    values = [value for line in series.values() for value in line]
    low_y, high_y = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def place(at: float, value: float) -> tuple[float, float]:
        across = (math.log10(at) - low_x) / (high_x - low_x)
        up = (math.log10(value) - low_y) / (high_y - low_y)
        return left + MARGIN + across * (WIDTH - 70), HEIGHT - 40 - up * (HEIGHT - 80)

    parts = [f'<text x="{left + MARGIN}" y="22" font-weight="bold">{title}</text>']
    for power in range(low_y, high_y + 1):
        (x0, y), (x1, _) = place(x[0], 10**power), place(x[-1], 10**power)
        parts.append(f'<path d="M{x0:.0f} {y:.1f}H{x1:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{10**power:g} {unit}</text>')
    places = [(at, place(at, 1)[0]) for at in x]
    parts += [f'<text x="{px:.0f}" y="{HEIGHT - 20}" text-anchor="middle">{at:,.0f}</text>' for at, px in places]
    last = max(line[-1] for line in series.values())
    foot = max(x[0], x[-1] * 10**low_y / last)
    (x0, y0), (x1, y1) = place(foot, last * foot / x[-1]), place(x[-1], last)
    parts.append(f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="#999" stroke-dasharray="4 4"/>')
    for number, (name, line) in enumerate(series.items()):
        points = [place(at, value) for at, value in zip(x, line, strict=True)]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        color, y = COLORS[number], 40 + 15 * number
        parts.append(f'<path d="M{path}" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>' for px, py in points]
        parts.append(f'<text x="{left + MARGIN + 8}" y="{y}" fill="{color}">{name}</text>')
    return parts


def main() -> None:
    """Read, draw, write."""
    starts = json.loads(Path(sys.argv[1]).read_text())["figures"]["starts"]
    shards = [float(count) for count in starts]

    def line(turn: int, name: str) -> list[float]:
        return [pair[turn][name] for pair in starts.values()]

    seconds = {"new run": line(0, "planned_s"), "continued": line(1, "planned_s")}
    memory = {"new run": line(0, "driver_mb"), "continued": line(1, "driver_mb")}
    parts = panel(0, "Until all is planned", "s", shards, seconds)
    parts += panel(WIDTH + 20, "Most memory of the driver", "MB", shards, memory)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH + 40} {HEIGHT}" fill="none" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/><g fill="{INK}">'
    )
    text = "".join(part for part in parts if part.startswith("<text"))
    lines = "".join(part for part in parts if not part.startswith("<text"))
    Path(sys.argv[2]).write_text(f"{head}{text}</g>{lines}</svg>\n")


if __name__ == "__main__":
    main()
