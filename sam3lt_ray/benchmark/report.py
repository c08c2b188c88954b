"""From measured rows to figures: medians, ratios, rates; and the JSON document."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sam3lt_ray.benchmark.agreement import compare
from sam3lt_ray.benchmark.flops import ModelFlops
from sam3lt_ray.benchmark.workloads import INSTANCES, Workload

FORMAT: Final = 1
BASE: Final = "sam3lt"  # ratios are against it

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Everything that was found.

    Attributes:
        setting: Command, date, machine, limit, checkpoint, what the contenders are: whatever holds for all rows.
        workloads: For each: ``workload``, ``contenders`` (name to figures) and ``agreement``.
        failures: Why contenders did not come to their end, by name.
    """

    setting: dict[str, Any]
    workloads: list[dict[str, Any]]
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nobody failed and all agree; what was left out for want of time is no failure."""
        statuses = [row["status"] for one in self.workloads for row in one["contenders"].values()]
        return not self.failures and "failed" not in statuses and all(one["agreement"]["ok"] for one in self.workloads)

    @property
    def exit_code(self) -> int:
        """0, or 1 where a contender failed or masks differ."""
        return 0 if self.ok else 1

    def to_json(self) -> dict[str, Any]:
        """The document that ``--json`` writes."""
        return {
            "format": FORMAT,
            "ok": self.ok,
            **self.setting,
            "instances_per_present_pair": INSTANCES,
            "failures": self.failures,
            "workloads": self.workloads,
        }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least, most, and all values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def summarise(workload: Workload, rows: Mapping[str, Row], flops: ModelFlops, limit_tflops: float) -> dict[str, Any]:
    """The figures of one workload.

    Args:
        workload: Which.
        rows: The contenders' rows, measured or not.
        flops: Of the model.
        limit_tflops: What the device reaches at most.
    """
    measured = {name: row for name, row in rows.items() if row["status"] == "measured"}
    agreement = compare(
        {name: row["found"] for name, row in measured.items()},
        workload,
        {name: row["facts"]["asked_prompts"] for name, row in measured.items() if "asked_prompts" in row["facts"]},
    )
    base_ms = statistics.median(measured[BASE]["ms_per_image"]) if BASE in measured else None
    work = flops.per_image(workload.num_prompts, workload.num_present)
    return {
        "workload": workload.to_json(),
        "name": workload.name,
        "gflop_per_image": work / 1e9,
        "contenders": {name: _figures(row, workload, work, base_ms, limit_tflops) for name, row in rows.items()},
        "agreement": agreement,
    }


def _figures(row: Row, workload: Workload, work: float, base_ms: float | None, limit_tflops: float) -> Row:
    kept = {name: value for name, value in row.items() if name not in ("found", "workload")}
    if row["status"] != "measured":
        return kept
    times = spread(row["ms_per_image"])
    tflops = work / times["median"] / 1e9
    return {
        **kept,
        "ms_per_image": times,
        "images_per_s": 1000 / times["median"],
        "ms_per_prompt": times["median"] / workload.num_prompts,
        "times_sam3lt": None if base_ms is None else times["median"] / base_ms,
        "tflops": tflops,
        "share_of_limit": tflops / limit_tflops,
    }
