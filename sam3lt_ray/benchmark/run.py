"""The whole comparison: images, checkpoint, contenders one after the other, report."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from sam3lt_ray.benchmark.contenders import (
    DESCRIPTIONS,
    ContenderName,
    ContenderSettings,
    image_path,
    num_images,
)
from sam3lt_ray.benchmark.flops import ModelFlops, model_flops
from sam3lt_ray.benchmark.options import BenchmarkOptions
from sam3lt_ray.benchmark.photos import make_photo
from sam3lt_ray.benchmark.processes import ChildAnswer, Say, run_child
from sam3lt_ray.benchmark.report import BenchmarkReport, Row, summarise
from sam3lt_ray.benchmark.workloads import Workload
from sam3lt_ray.errors import RunError, UsageError

_WEIGHTS: Final[dict[ContenderName, float]] = {"documented": 1.0, "sam3lt": 4.0, "compiled": 7.0}  # of the time
_GRACE_S: Final = 600.0  # for what one workload may take beyond its contender's share: compiling, mostly
_SETUP_TIMEOUT_S: Final = 600.0


def run_benchmark(
    options: BenchmarkOptions, say: Say, save: Callable[[BenchmarkReport], None] = lambda _: None
) -> BenchmarkReport:
    """Measures all contenders.

    Args:
        options: What is asked for.
        say: Told what goes on.
        save: Given the report so far after each contender, so that a run that is stopped leaves what it had.

    Raises:
        UsageError: Wrong options, no such device, or a checkpoint that cannot be used.
        RunError: The device or the checkpoint could not be prepared.
    """
    options.check()
    with TemporaryDirectory(prefix="sam3lt-bench-") as scratch:
        folder = Path(scratch)
        device = _look_at_device(options, folder, say)
        checkpoint = _find_checkpoint(options.chosen_checkpoint, folder, say)
        flops = _count_flops(checkpoint)
        settings = ContenderSettings(
            checkpoint=checkpoint,
            device=device["device"],
            precision=device["precision"],
            compile=device["device"] == "cuda" if options.compile is None else options.compile,
            decode_threads=len(os.sched_getaffinity(0)),
        )
        counts = _image_counts(options)
        _make_images(counts, folder, say)
        setting = _setting(options, device, settings, flops)
        rows: dict[Workload, dict[str, Row]] = {workload: {} for workload in options.workloads}
        failures: dict[str, str] = {}
        for name, answer in _run_contenders(options, settings, counts, folder, say):
            if answer.failure is not None:
                failures[name] = answer.failure
            for row in answer.content.get("rows", []):
                rows[Workload(**row["workload"])][name] = row
            for of_workload in rows.values():
                of_workload.setdefault(name, {"status": "failed", "reason": answer.failure or "no answer"})
            figures = [summarise(one, rows[one], flops, device["limit"]["tflops"]) for one in options.workloads]
            report = BenchmarkReport(setting, figures, dict(failures))
            save(report)
    return report


def _look_at_device(options: BenchmarkOptions, folder: Path, say: Say) -> dict[str, Any]:
    say("looking at the device")
    spec = {"task": "device", "device": options.chosen_device}
    answer = run_child(spec, folder, timeout_s=_SETUP_TIMEOUT_S, say=say)
    if answer.failure is not None:
        raise RunError(f"The device could not be looked at: {answer.failure}.")
    if "refused" in answer.content:
        raise UsageError(answer.content["refused"])
    if answer.content["device"] == "cpu" and options.chosen_checkpoint == "full" and options.device != "cpu":
        raise UsageError(
            "torch sees no CUDA GPU, and the full-size model takes minutes per image on a CPU: use --quick for the "
            "small form, or --device cpu if you mean it."
        )
    return answer.content


def _find_checkpoint(name: str, folder: Path, say: Say) -> str:
    from sam3lt_ray.engine.checkpoint import resolve_checkpoint

    if name not in ("full", "tiny"):
        return str(resolve_checkpoint(name).folder)
    say(f"making a {name} checkpoint with random weights")
    spec = {"task": "checkpoint", "size": name, "folder": str(folder / "checkpoint")}
    answer = run_child(spec, folder, timeout_s=_SETUP_TIMEOUT_S, say=say)
    if answer.failure is not None:
        raise RunError(f"The checkpoint could not be made: {answer.failure}.")
    return str(answer.content["folder"])


def _count_flops(checkpoint: str) -> ModelFlops:
    from transformers.models.sam3.configuration_sam3 import Sam3Config
    from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig

    stated = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    stated = stated.get("detector_config") or stated
    config_class = Sam3Config if stated.get("model_type") == "sam3" else Sam3LiteTextConfig
    return model_flops(config_class.from_dict(stated))


def _image_counts(options: BenchmarkOptions) -> dict[ContenderName, list[tuple[Workload, int]]]:
    return {
        name: [
            (workload, options.num_images or num_images(name, workload, quick=options.quick))
            for workload in options.workloads
        ]
        for name in options.chosen_contenders
    }


def _make_images(counts: dict[ContenderName, list[tuple[Workload, int]]], folder: Path, say: Say) -> None:
    say("making images")
    for of_contender in counts.values():
        for workload, count in of_contender:
            for index in range(count):
                path = image_path(folder, workload, index)
                if not path.exists():
                    path.write_bytes(make_photo(workload.images, index))


def _run_contenders(
    options: BenchmarkOptions,
    settings: ContenderSettings,
    counts: dict[ContenderName, list[tuple[Workload, int]]],
    folder: Path,
    say: Say,
) -> Iterator[tuple[ContenderName, ChildAnswer]]:
    until_s = time.monotonic() + 60 * options.budget_minutes
    waiting = list(options.chosen_contenders)
    while waiting:
        left_s = max(0.0, until_s - time.monotonic())
        budget_s = left_s * _WEIGHTS[waiting[0]] / sum(_WEIGHTS[name] for name in waiting)
        name = waiting.pop(0)
        say(f"running {name} (for about {budget_s:.0f} s)")
        spec = {
            "task": "contender",
            "contender": name,
            "settings": {field: getattr(settings, field) for field in settings.__slots__},
            "workloads": [{"workload": one.to_json(), "num_images": count} for one, count in counts[name]],
            "images": str(folder),
            "budget_s": budget_s,
        }
        yield name, run_child(spec, folder, timeout_s=budget_s + _GRACE_S, say=say)


def _setting(
    options: BenchmarkOptions, device: dict[str, Any], settings: ContenderSettings, flops: ModelFlops
) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": ["sam3lt", *sys.argv[1:]],
        "quick": options.quick,
        "budget_minutes": options.budget_minutes,
        "machine": device["machine"],
        "device": device["device"],
        "precision": device["precision"],
        "limit": device["limit"],
        "checkpoint": {"name": options.chosen_checkpoint, "gflop": flops.to_json()},
        "compiled": settings.compile,
        "decode_threads": settings.decode_threads,
        "contenders": {name: DESCRIPTIONS[name] for name in options.chosen_contenders},
    }
