"""How often a contender labels: three times at least for ours while there is time; and how many images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.benchmark import measuring
from sam3lt_ray.benchmark.contenders import ContenderName, Pass, image_path, num_images
from sam3lt_ray.benchmark.measuring import measure_workloads
from sam3lt_ray.benchmark.workloads import Workload

WORKLOADS = [Workload(1, 1), Workload(80, 3)]


class Slow:
    """Takes ten seconds for each pass, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: self.now_s)

    def prepare(self, workload: Workload) -> float:
        return float(workload.num_prompts)

    def first_call(self, images: Sequence[bytes]) -> None:
        assert images

    def label(self, images: Sequence[bytes]) -> Pass:
        self.now_s += 10.0
        return Pass(10.0 / len(images), [])

    def profile(self, images: Sequence[bytes]) -> None:
        assert images

    def facts(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("name", "budget_s", "repeats"),
    [
        ("sam3lt", 50.0, [3, 2]),  # three, though the first one's share is 25 s; then until the time is over
        ("sam3lt", 200.0, [5, 5]),
        ("sam3lt", 1.0, [1]),
        ("compiled", 50.0, [2, 3]),
        ("documented", 50.0, [2, 3]),
    ],
)
def test_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: ContenderName, budget_s: float, repeats: list[int]
) -> None:
    rows: list[dict[str, Any]] = []
    for workload in WORKLOADS:
        image_path(tmp_path, workload, 0).write_bytes(b"an image")
    assert measure_workloads(
        Slow(monkeypatch),
        name,
        [(workload, 1) for workload in WORKLOADS],
        image_folder=tmp_path,
        budget_s=budget_s,
        write=lambda some: rows.__setitem__(slice(None), some),
        say=lambda _: None,
    )
    assert [len(row["ms_per_image"]) for row in rows if row["status"] == "measured"] == repeats
    assert [row["status"] for row in rows[len(repeats) :]] == ["skipped"] * (len(WORKLOADS) - len(repeats))


@pytest.mark.parametrize("num_prompts", [1, 10, 80, 365, 1000])
def test_compiled_labels_as_many_images_in_a_pass_as_ours(num_prompts: int) -> None:
    for images in ("one size", "mix"):
        workload = Workload(num_prompts, 1, images)  # type: ignore[arg-type]
        assert num_images("compiled", workload, quick=False) == num_images("sam3lt", workload, quick=False) >= 8
