"""What the pipeline costs over the bare engine, on the same scenes, on two CPU cores.

    python -m tests.benchmarks.bench_overhead [--quick] [--json FILE]

Bare engine: a plain process reads the tars and labels their images with the class the actors use (decode, model,
masks); it builds no rows and writes nothing. Pipeline: the whole job on local Ray, from WebDataset to committed
Parquet, in units of 8 images. Both in two layouts: one process with two threads for the model, and two processes with
one each, which is what the pipeline chooses by itself for this checkpoint. They take turns, always in fresh processes,
and are timed from the end of the first units to the end of the last. CPU time is that of all processes, Ray's own
included: unlike the clock, it hardly depends on what else the machine is doing. More of it is what a machine with all
cores busy gets slower by.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3lt_ray.config.schema import Config
from sam3lt_ray.demo.dataset import write_demo_dataset
from sam3lt_ray.vocabulary.loading import load_vocabulary
from tests.benchmarks.measuring import (
    Spread,
    Steady,
    UnitClock,
    finish,
    in_fresh_process,
    load_now,
    print_table,
    read_options,
    spread,
    steady_per_image,
)

SEED = 5
RAY_WORKER_NICENESS = 15  # Ray's default: on a machine that is not quiet, the bare engine must not have better manners
IMAGES_PER_UNIT = 8
# Layouts: processes, threads of each for the model, and the settings that make the pipeline do the same on two cores.
LAYOUTS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "1 x 2 threads": (1, 2, {"actors": 1}),
    "2 x 1 thread": (2, 1, {}),
}


@dataclass(frozen=True)
class Measured:
    """One turn: without start-up and first units, and the seconds of everything."""

    steady: Steady
    total_s: float


def make_config(scenes: Path, run: Path, compute: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "run": {"output": str(run)},
            "input": {"format": "webdataset", "uri": str(scenes), "images_per_unit": IMAGES_PER_UNIT},
            "model": {"checkpoint": "demo"},
            "vocabulary": "demo",
            "compute": {"device": "cpu", **compute},
        }
    )


def label_share(scenes: Path, threads: int, part: int, parts: int) -> Measured:
    """One bare process: every ``parts``-th shard."""
    os.nice(RAY_WORKER_NICENESS)
    started_at = time.time()
    from sam3lt_ray.engine.checkpoint import resolve_checkpoint
    from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
    from sam3lt_ray.inputs.listing import list_shards
    from sam3lt_ray.inputs.reading import read_units
    from sam3lt_ray.records import ReadRange
    from sam3lt_ray.stages.label import ImageLabeler

    config = make_config(scenes, Path("unused"), {})
    vocabulary = load_vocabulary("demo")
    prompts = [prompt.text for prompt in vocabulary.prompts]
    settings = EngineSettings(device="cpu", score_floor=config.labeling.score_floor, num_threads=threads)
    labeler = ImageLabeler(
        Segmenter.load(resolve_checkpoint("demo"), prompts, settings),
        vocabulary,
        merge_iou=config.labeling.merge_iou,
        max_pixels=config.input.max_pixels,
        decode_threads=1,
    )
    clock = UnitClock()
    for shard in list_shards(config.input, config.storage)[part::parts]:
        for unit in read_units(shard, [ReadRange()], config.input, config.storage):
            labeler.label_unit(unit)
            clock.unit_done(images=len(unit.images), errors=0, instances=0)
    return Measured(steady_per_image(clock), time.time() - started_at)


def run_bare(scenes: Path, processes: int, threads: int) -> Measured:
    with ThreadPoolExecutor(processes) as pool:
        shares = [
            pool.submit(in_fresh_process, label_share, scenes, threads, part, processes) for part in range(processes)
        ]
        done = [share.result() for share in shares]
    wall_s = 1 / sum(1 / one.steady.wall_s for one in done)
    cpu_s = statistics.mean(one.steady.cpu_s for one in done)
    return Measured(Steady(wall_s, cpu_s), max(one.total_s for one in done))


def run_pipeline(scenes: Path, processes: int, compute: dict[str, Any]) -> Measured:
    clock = UnitClock()
    from sam3lt_ray.pipeline.run import label_run

    with tempfile.TemporaryDirectory() as folder:
        summary = label_run(make_config(scenes, Path(folder) / "run", compute), progress=clock)
        total_s = time.time() - clock.started_at
    assert summary.status == "done", summary.message
    actors = summary.content["session"]["actors"]
    assert actors == processes, f"{actors} actors beside {processes} bare processes: this is for two cores"
    return Measured(steady_per_image(clock, at_once=processes), total_s)


def measure(scenes: Path, turns: int) -> dict[str, list[Measured]]:
    """Everything in turn, and again."""
    measured: dict[str, list[Measured]] = {}
    for turn in range(turns):
        for layout, (processes, threads, compute) in LAYOUTS.items():
            for what in ("bare engine", "pipeline"):
                if what == "bare engine":
                    one = run_bare(scenes, processes, threads)
                else:
                    one = in_fresh_process(run_pipeline, scenes, processes, compute)
                measured.setdefault(f"{what}, {layout}", []).append(one)
                wall_ms, cpu_ms = 1000 * one.steady.wall_s, 1000 * one.steady.cpu_s
                print(f"turn {turn + 1}: {what}, {layout}: {wall_ms:.0f} ms, CPU {cpu_ms:.0f} ms, load {load_now()}")
    return measured


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    num_scenes, turns = (32, 1) if options.quick else (64, 3)
    labels = [label.name for label in load_vocabulary("demo").labels]
    with tempfile.TemporaryDirectory() as folder:
        shards = write_demo_dataset(Path(folder), num_scenes, labels, SEED, scenes_per_shard=num_scenes // 4)
        measured = measure(shards.shards_folder, turns)
    print()
    figures: dict[str, Any] = {"images": num_scenes, "images_per_unit": IMAGES_PER_UNIT}
    rows = []
    for name, turns_of_it in measured.items():
        bare = measured[name.replace("pipeline", "bare engine")]
        columns = {
            "ms/image": spread([1000 * one.steady.wall_s for one in turns_of_it]),
            "CPU ms/image": spread([1000 * one.steady.cpu_s for one in turns_of_it]),
            # Turn by turn, as what else the machine does changes between turns.
            "overhead, %": _more(turns_of_it, bare, lambda one: one.steady.wall_s),
            "overhead in CPU time, %": _more(turns_of_it, bare, lambda one: one.steady.cpu_s),
            "s in all": spread([one.total_s for one in turns_of_it]),
        }
        is_bare = bare is turns_of_it
        rows.append([name, *("" if is_bare and "over" in column else c.text() for column, c in columns.items())])
        figures[name] = {column: values.to_json() for column, values in columns.items()}
    print_table(["", *columns], rows)
    finish(options, figures, load_before)


def _more(measured: Sequence[Measured], bare: Sequence[Measured], figure: Callable[[Measured], float]) -> Spread:
    """By how many percent it is more than the bare engine's of the same turn."""
    return spread([100 * (figure(one) / figure(other) - 1) for one, other in zip(measured, bare, strict=True)])


if __name__ == "__main__":
    main()
