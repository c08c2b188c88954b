"""The processes of the benchmark: ``python -m sam3lt_ray.benchmark.child SPEC.json ANSWER.json``.

The parent never touches the GPU. A child looks at the device, makes a checkpoint, or is one contender.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from sam3lt_ray.benchmark.contenders import Contender, ContenderName, ContenderSettings
from sam3lt_ray.benchmark.limit import measure_limit
from sam3lt_ray.benchmark.machine import describe_machine
from sam3lt_ray.benchmark.measuring import measure_workloads
from sam3lt_ray.benchmark.random_checkpoint import make_random_checkpoint
from sam3lt_ray.benchmark.workloads import Workload
from sam3lt_ray.engine.devices import choose_placement
from sam3lt_ray.errors import UsageError


def look_at_device(spec: dict[str, Any]) -> dict[str, Any]:
    """Which device and precision it comes to, the machine, and its limit; a device that is not there is an answer."""
    try:
        placement = choose_placement(spec["device"], "auto")
    except UsageError as error:
        return {"refused": error.message}
    return {
        "device": placement.device.type,
        "precision": placement.precision,
        "machine": describe_machine(placement.device),
        "limit": measure_limit(placement.device),
    }


def make_checkpoint(spec: dict[str, Any]) -> dict[str, Any]:
    """A random checkpoint."""
    return {"folder": str(make_random_checkpoint(Path(spec["folder"]), spec["size"]))}


def be_contender(spec: dict[str, Any], answer: Path) -> dict[str, Any]:
    """All workloads of one contender."""
    _import_transformers()
    settings = ContenderSettings(**spec["settings"])
    workloads = [(Workload(**one["workload"]), int(one["num_images"])) for one in spec["workloads"]]
    rows: list[dict[str, Any]] = []

    def write(so_far: list[dict[str, Any]]) -> None:
        rows[:] = so_far
        _write(answer, {"rows": rows, "finished": False})

    measure_workloads(
        make_contender(spec["contender"], settings),
        spec["contender"],
        workloads,
        image_folder=Path(spec["images"]),
        budget_s=spec["budget_s"],
        write=write,
        say=_say,
    )
    return {"rows": rows, "finished": True}


def make_contender(name: ContenderName, settings: ContenderSettings) -> Contender:
    """Imports the contender's module only: each process has its own contender and nothing else."""
    if name == "documented":
        from sam3lt_ray.benchmark.documented import Documented

        return Documented(settings)
    if name == "compiled":
        from sam3lt_ray.benchmark.compiled import Compiled

        return Compiled(settings)
    from sam3lt_ray.benchmark.product import Product

    return Product(settings)


def _import_transformers() -> None:
    """Now, so that nobody's start-up has it in it: some contenders import it late."""
    import transformers.models.sam3.modeling_sam3
    import transformers.models.sam3_lite_text.modeling_sam3_lite_text
    from transformers import AutoTokenizer

    del transformers, AutoTokenizer


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _write(path: Path, content: dict[str, Any]) -> None:
    half = path.with_suffix(".half")
    half.write_text(json.dumps(content), encoding="utf-8")
    half.replace(path)


def main(spec_path: Path, answer: Path) -> None:
    """Does what the specification says and writes the answer."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    torch.manual_seed(0)
    if spec["task"] == "device":
        content = look_at_device(spec)
    elif spec["task"] == "checkpoint":
        content = make_checkpoint(spec)
    else:
        content = be_contender(spec, answer)
    _write(answer, content)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
