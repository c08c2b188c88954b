from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam3lt_ray.benchmark.agreement import compare
from sam3lt_ray.benchmark.contenders import DESCRIPTIONS
from sam3lt_ray.benchmark.flops import ModelFlops
from sam3lt_ray.benchmark.report import BenchmarkReport, Row, spread, summarise
from sam3lt_ray.benchmark.tables import render
from sam3lt_ray.benchmark.workloads import Workload

FLOPS = ModelFlops(vision=2e9, fine_levels=1e9, encoder=3e9, decoder=1e9, mask_decoder=5e9)
WORKLOAD = Workload(2, 1)  # prompt 1 is present


def encoded(shift: int) -> dict[str, Any]:
    """A rectangle; larger shifts give others."""
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[5:30, shift : shift + 12] = 1
    rle = coco_mask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def found(*shifts: int) -> list[dict[str, Any]]:
    return [{"1": [encoded(shift) for shift in shifts]}]


def row(ms: list[float], masks: list[dict[str, Any]], **facts: Any) -> Row:
    return {
        "status": "measured",
        "num_images": 1,
        "ms_per_image": ms,
        "startup_s": {"load": 1.0, "first_call": 2.0},
        "memory_mb": {"allocated_peak": 10.0, "device_used": 20.0},
        "parts_ms_per_image": None,
        "facts": {"extrapolated_from": None, **facts},
        "found": masks,
    }


def setting() -> dict[str, Any]:
    versions = {"torch": "2", "transformers": "5", "python": "3"}
    return {
        "date": "2026-11-24",
        "machine": {"gpu": None, "cpu": "a CPU", "cores": 2, "load": 0.1, "versions": versions},
        "limit": {"tflops": 10.0, "how": "a product"},
        "precision": "fp32",
        "checkpoint": {"name": "demo"},
        "compiled": False,
        "contenders": dict(DESCRIPTIONS),
    }


def test_figures() -> None:
    rows = {"documented": row([40.0, 30.0, 50.0], found(1, 20, 40)), "sam3lt": row([10.0], found(1, 20, 40))}
    one = summarise(WORKLOAD, rows, FLOPS, limit_tflops=8.0)
    figures = one["contenders"]["documented"]
    assert figures["ms_per_image"] == {"median": 40.0, "min": 30.0, "max": 50.0, "values": [40.0, 30.0, 50.0]}
    assert figures["images_per_s"] == 25.0
    assert figures["ms_per_prompt"] == 20.0
    assert figures["times_sam3lt"] == 4.0
    assert one["gflop_per_image"] == 16.0
    assert one["contenders"]["sam3lt"]["tflops"] == pytest.approx(1.6)
    assert one["contenders"]["sam3lt"]["share_of_limit"] == pytest.approx(0.2)
    assert one["agreement"]["ok"]
    assert one["agreement"]["identical"] == 3
    assert "found" not in figures


def test_without_us_there_is_no_ratio() -> None:
    one = summarise(WORKLOAD, {"compiled": row([10.0], found(1, 20, 40))}, FLOPS, limit_tflops=8.0)
    assert one["contenders"]["compiled"]["times_sam3lt"] is None


def test_the_order_of_masks_is_free_and_other_masks_are_noticed() -> None:
    same = compare({"a": found(1, 20, 40), "b": found(40, 1, 20)}, WORKLOAD, {})
    assert same["ok"]
    assert same["least_iou"] == 1.0
    other = compare({"a": found(1, 20, 40), "b": found(1, 20, 41)}, WORKLOAD, {})
    assert not other["ok"]
    assert other["least_iou"] == pytest.approx(11 / 13)


def test_missing_and_surplus_instances_are_noticed() -> None:
    assert not compare({"a": found(1, 20)}, WORKLOAD, {})["ok"]
    assert not compare({"a": [{}]}, WORKLOAD, {})["ok"]
    assert not compare({"a": [{"0": [encoded(1)] * 3, **found(1, 20, 40)[0]}]}, WORKLOAD, {})["ok"]
    assert compare({"a": [{}]}, WORKLOAD, {"a": [0]})["ok"]  # was never asked for prompt 1


def test_report_with_a_failure_and_a_skip() -> None:
    rows: dict[str, Row] = {
        "documented": row(
            [40.0], found(1, 20, 40), extrapolated_from={"prompts": 4, "present": 2, "absent": 2}, asked_prompts=[1]
        ),
        "sam3lt": row([10.0], found(1, 20, 40)),
        "compiled": {"status": "failed", "reason": "OutOfMemoryError: too large"},
    }
    report = BenchmarkReport(setting(), [summarise(WORKLOAD, rows, FLOPS, limit_tflops=8.0)])
    assert report.exit_code == 1
    text = render(report)
    assert "OutOfMemoryError: too large" in text
    assert "extrapolated from 4 prompts (2 present, 2 absent)" in text
    assert "without torch.compile" in text

    rows["compiled"] = {"status": "skipped", "reason": "no time left"}
    report = BenchmarkReport(setting(), [summarise(WORKLOAD, rows, FLOPS, limit_tflops=8.0)])
    assert report.exit_code == 0
    assert BenchmarkReport(setting(), report.workloads, {"compiled": "was killed"}).exit_code == 1


def test_json_can_be_read_back() -> None:
    rows = {"sam3lt": row([10.0], found(1, 20, 40))}
    report = BenchmarkReport(setting(), [summarise(WORKLOAD, rows, FLOPS, limit_tflops=8.0)])
    read = json.loads(json.dumps(report.to_json()))
    assert read["format"] == 1
    assert read["ok"] is True
    assert {"date", "machine", "limit", "checkpoint", "contenders", "failures"} <= read.keys()
    (one,) = read["workloads"]
    assert one.keys() == {"workload", "name", "gflop_per_image", "contenders", "agreement"}


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "values": [3.0, 1.0, 2.0]}
