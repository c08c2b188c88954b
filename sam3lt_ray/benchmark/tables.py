"""The report as text: a table for each workload, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sam3lt_ray.benchmark.part_clock import PARTS
from sam3lt_ray.benchmark.report import BenchmarkReport

_COLUMNS = (
    "ms/image",
    "images/s",
    "ms/prompt",
    "times sam3lt",
    "TFLOP/s (of limit)",
    "MB tensors / device",
    "start-up s: load + first call",
)


def render(report: BenchmarkReport) -> str:
    """Everything for a person, as Markdown tables."""
    lines = _heading(report.setting)
    for one in report.workloads:
        rows, notes = [], []
        for name, figures in one["contenders"].items():
            if figures["status"] != "measured":
                rows.append([name, f"{figures['status']}: {figures['reason']}", *[""] * (len(_COLUMNS) - 1)])
                continue
            mark = ""
            if figures["facts"]["extrapolated_from"]:
                mark = "*"
                some = figures["facts"]["extrapolated_from"]
                notes.append(
                    f"* {name}: extrapolated from {some['prompts']} prompts ({some['present']} present, "
                    f"{some['absent']} absent)"
                )
            rows.append([name + mark, *_cells(figures)])
        lines += ["", f"## {one['name']} ({one['gflop_per_image']:,.4g} GFLOP per image)", ""]
        lines += _table(["", *_COLUMNS], rows)
        lines += notes
        lines += _parts(one["contenders"])
        lines.append(_agreement(one["agreement"]))
    lines += ["", *_meanings(report.setting)]
    lines += [f"FAILED {name}: {reason}" for name, reason in report.failures.items()]
    return "\n".join(lines)


def _heading(setting: dict[str, Any]) -> list[str]:
    machine, limit = setting["machine"], setting["limit"]
    device = machine["gpu"]["name"] if machine["gpu"] else machine["cpu"]
    versions = machine["versions"]
    return [
        f"{setting['date']}, {device}, {machine['cores']} cores, torch {versions['torch']}, transformers "
        f"{versions['transformers']}, {setting['precision']}; checkpoint {setting['checkpoint']['name']}; load "
        f"{machine['load']}",
        f"limit: {limit['tflops']:.4g} TFLOP/s ({limit['how']})",
        *(f"{name}: {what}" for name, what in setting["contenders"].items()),
    ]


def _cells(figures: dict[str, Any]) -> list[str]:
    times, memory, startup = figures["ms_per_image"], figures["memory_mb"], figures["startup_s"]
    ratio = figures["times_sam3lt"]
    return [
        f"{times['median']:,.1f} [{times['min']:,.1f}, {times['max']:,.1f}]",
        f"{figures['images_per_s']:.3g}",
        f"{figures['ms_per_prompt']:.2f}",
        "" if ratio is None else f"{ratio:.2f}",
        f"{figures['tflops']:.3g} ({100 * figures['share_of_limit']:.0f} %)",
        f"{memory['allocated_peak']:,.0f} / {memory['device_used']:,.0f}" if memory else "",
        f"{startup['load']:.1f} + {startup['first_call']:.1f}",
    ]


def _parts(contenders: dict[str, Any]) -> list[str]:
    names = (*PARTS, "host and waiting", "all")
    rows, notes = [], []
    for name, figures in contenders.items():
        parts = figures.get("parts_ms_per_image")
        if parts:
            rows.append([name, *(f"{parts[part]:,.2f}" for part in names)])
            absent = parts.get("mask head on absent prompts")
            if absent is not None:
                notes.append(f"{name}: {absent:,.2f} ms of its mask head went to absent prompts")
    return ["", *_table(["ms/image by part", *names], rows), *notes] if rows else []


def _agreement(agreement: dict[str, Any]) -> str:
    if not agreement["ok"]:
        return "DISAGREEMENT: " + "; ".join(agreement["problems"])
    if not agreement["compared"]:
        return "agreement: no masks to compare"
    return (
        f"agreement: {agreement['compared']} masks compared, least IoU {agreement['least_iou']:.5f}, "
        f"{agreement['identical']} identical"
    )


def _meanings(setting: dict[str, Any]) -> list[str]:
    lines = [
        "ms/image: median [least, most] of the repeats, JPEG bytes to COCO run lengths. ms/prompt: ms/image divided by "
        "prompts.",
        "TFLOP/s: what the model needs by formula (masks for present prompts only) over the time, whatever was "
        "executed.",
        "By part: from a pass of its own. MB: most memory of tensors, and all that is held on the device. "
        "Start-up without imports; the load of a model that several vocabularies share counts for each.",
    ]
    if not setting["compiled"]:
        lines.append(
            "compiled: without torch.compile here (it is the default on a GPU only): eager, the mask decoder for "
            "present prompts only."
        )
    return lines


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [headers, *rows]) for column in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        aligned = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return "| " + " | ".join(aligned) + " |"

    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return [line(headers), line(rule), *(line(row) for row in rows)]
