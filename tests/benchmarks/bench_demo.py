"""How long ``sam3lt demo`` takes on this machine, and how fast it labels.

    python -m tests.benchmarks.bench_demo [--quick] [--json FILE]

The command as a person types it, in an empty folder: renders 64 scenes, labels them, exports, scores, writes the
report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.benchmarks.measuring import finish, load_now, print_table, read_options, spread


def run_demo_command(num_scenes: int) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole command, and what it answers."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sam3lt_ray", "demo", "--scenes", str(num_scenes), "-o", folder, "--json"]
        started_s = time.perf_counter()
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        return time.perf_counter() - started_s, json.loads(answer)


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    num_scenes, turns = (16, 1) if options.quick else (64, 3)
    walls, sessions = [], []
    for turn in range(turns):
        wall_s, answer = run_demo_command(num_scenes)
        walls.append(wall_s)
        sessions.append(answer["summary"]["session"])
        print(f"turn {turn + 1}: {wall_s:.1f} s, load {load_now()}", flush=True)
    measured = {
        "whole command, s": spread(walls),
        "labeling, s": spread([session["labeling_s"] for session in sessions]),
        "labeling, images/s": spread([session["images_per_s"] for session in sessions]),
        "labeling, ms/image": spread([1000 / session["images_per_s"] for session in sessions]),
    }
    print()
    print_table([f"sam3lt demo, {num_scenes} scenes", ""], [[name, one.text()] for name, one in measured.items()])
    finish(options, {"scenes": num_scenes, **{name: one.to_json() for name, one in measured.items()}}, load_before)


if __name__ == "__main__":
    main()
