"""What bf16 costs in accuracy, through the whole product: demo scenes labeled in fp32 and in bf16, scored, compared.

    python -m tests.benchmarks.bench_precision [--quick] [--json FILE]

fp32 is transformers' answer within 1e-4 (tests/contracts). A presence decision flips when the probability is on the
other side of a half.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sam3lt_ray.config.schema import ComputeSettings, StorageSettings
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.pipeline.demo import run_demo
from sam3lt_ray.storage.store import open_store
from tests.benchmarks.measuring import finish, load_now, print_table, read_options

SEED = 31


def label(folder: Path, precision: str, num_scenes: int) -> dict[str, Any]:
    """Figures of one run, and the presence of every label by image."""
    compute = ComputeSettings.model_validate({"precision": precision})
    result = run_demo(folder / precision, num_scenes=num_scenes, seed=SEED, compute=compute)
    reader = RunReader(open_store(str(result.run), StorageSettings()))
    presence: dict[str, Any] = {}
    for table in reader.iter_tables(["key", "presence"]):
        presence.update(zip(table["key"].to_pylist(), table["presence"].to_pylist(), strict=True))
    masks = result.evaluation.masks
    session = result.summary.content["session"]
    return {
        "figures": {
            "ap": masks.ap,
            "ap50": masks.ap50,
            "presence_accuracy": result.evaluation.presence.accuracy,
            "instances": result.evaluation.detections,
            "images_per_s": session["images_per_s"],
            "device": session["device"],
        },
        "presence": presence,
    }


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    num_scenes = 20 if options.quick else 300
    with tempfile.TemporaryDirectory() as scratch:
        runs = {precision: label(Path(scratch), precision, num_scenes) for precision in ("fp32", "bf16")}
    keys = sorted(runs["fp32"]["presence"])
    exact, rough = (np.array([run["presence"][key] for key in keys], np.float32) for run in runs.values())
    flips = float(((exact >= 0.5) != (rough >= 0.5)).mean())
    rows = [
        [
            precision,
            f"{100 * run['figures']['ap']:.2f}",
            f"{100 * run['figures']['ap50']:.2f}",
            f"{100 * run['figures']['presence_accuracy']:.2f}",
            str(run["figures"]["instances"]),
        ]
        for precision, run in runs.items()
    ]
    print_table([f"{num_scenes} scenes", "mask AP", "AP50", "presence accuracy, %", "instances"], rows)
    print(
        f"\nAP differs by {100 * (runs['bf16']['figures']['ap'] - runs['fp32']['figures']['ap']):+.2f} points; "
        f"{100 * flips:.3f} % of {exact.size:,} presence decisions flip."
    )
    figures = {precision: run["figures"] for precision, run in runs.items()}
    finish(options, {"scenes": num_scenes, "by_precision": figures, "presence_flips": flips}, load_before)


if __name__ == "__main__":
    main()
