"""Whether the whole job keeps a GPU busy, from WebDataset shards through Ray to committed Parquet.

    python -m tests.benchmarks.bench_feeding [--quick] [--json FILE]

The full-size model with random weights and forced answers, as in ``sam3lt bench``; JPEGs of 1280 x 960. Bare engine: a
fresh process labels images that lie in memory with the class the actors use, as one unit. Pipeline: ``label_run`` on
local Ray with the settings of a run. Timed from the end of the first units to the end of the last. How busy the GPU is
is said twice: by the run's own summary, and by the driver (nvidia-smi, five times a second: the share of time in which
a kernel ran). ``--quick``, or a machine without a GPU, takes the demo checkpoint on whatever there is.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sam3lt_ray.benchmark.photos import make_photo
from sam3lt_ray.benchmark.workloads import make_prompts
from sam3lt_ray.config.schema import Config
from tests.benchmarks.forced_engine import forced_engine
from tests.benchmarks.measuring import (
    UnitClock,
    finish,
    in_fresh_process,
    load_now,
    print_table,
    read_options,
    steady_per_image,
)
from tests.standin import write_tar

IMAGES_PER_UNIT = 125
DISTINCT_PHOTOS = 64
# Size of the vocabulary: images through the pipeline, images through the bare engine.
ON_GPU = {10: (2000, 384), 80: (2000, 128), 1: (2000, 512)}
ON_CPU = {1: (500, 16)}


def make_config(folder: Path, run: Path, num_prompts: int, checkpoint: str) -> Config:
    return Config.model_validate(
        {
            "run": {"output": str(run)},
            "input": {"format": "webdataset", "uri": str(folder), "images_per_unit": IMAGES_PER_UNIT},
            "model": {"checkpoint": checkpoint},
            "vocabulary": make_prompts(num_prompts),
        }
    )


def run_bare(folder: Path, num_prompts: int, checkpoint: str, num_images: int, resources: Any) -> dict[str, float]:
    """Milliseconds per image of the engine alone, and how busy the device was."""
    from sam3lt_ray.engine.checkpoint import resolve_checkpoint
    from sam3lt_ray.inputs.listing import list_shards
    from sam3lt_ray.inputs.reading import read_units
    from sam3lt_ray.records import ReadRange, Unit, UnitRange
    from sam3lt_ray.stages.label import ImageLabeler
    from sam3lt_ray.vocabulary.loading import load_vocabulary

    config = make_config(folder, Path("unused"), num_prompts, checkpoint)
    vocabulary = load_vocabulary(config.vocabulary)
    prompts = [prompt.text for prompt in vocabulary.prompts]
    started_s = time.perf_counter()
    engine = forced_engine(resolve_checkpoint(checkpoint), prompts, config, resources)
    load_s = time.perf_counter() - started_s
    labeler = ImageLabeler(
        engine,
        vocabulary,
        merge_iou=config.labeling.merge_iou,
        max_pixels=config.input.max_pixels,
        decode_threads=resources.decode_threads,
    )
    shard = list_shards(config.input, config.storage)[0]
    images = [image for unit in read_units(shard, [ReadRange()], config.input, config.storage) for image in unit.images]
    images = (images * (1 + num_images // len(images)))[:num_images]

    def unit(count: int) -> Unit:
        return Unit(shard.name, UnitRange(0, count, is_last=True), tuple(images[:count]))

    labeler.label_unit(unit(3 * engine.images_per_batch))
    _, timings = labeler.label_unit(unit(num_images))
    return {
        "ms_per_image": 1000 * timings.wall_s / num_images,
        "busy_share": timings.busy_s / timings.wall_s,
        "load_s": load_s,
    }


@contextmanager
def gpu_utilization() -> Iterator[list[tuple[float, float]]]:
    """(seconds since 1970, percent) as the driver says; empty where there is none."""
    samples: list[tuple[float, float]] = []
    program = shutil.which("nvidia-smi")
    if program is None:
        yield samples
        return
    command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        assert process.stdout is not None
        samples.extend((time.time(), float(line)) for line in process.stdout if line.strip().isdigit())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield samples
    finally:
        process.terminate()
        process.wait()
        reader.join()


def run_pipeline(folder: Path, num_prompts: int, checkpoint: str) -> dict[str, float]:
    """Milliseconds per image of the whole job, and how busy the device was."""
    clock = UnitClock()
    from sam3lt_ray.pipeline.run import label_run

    with tempfile.TemporaryDirectory() as scratch, gpu_utilization() as samples:
        config = make_config(folder, Path(scratch) / "run", num_prompts, checkpoint)
        summary = label_run(config, progress=clock, load_engine=forced_engine)
    assert summary.status == "done", summary.message
    assert not summary.content["images"]["error"], summary.content["errors"]
    session = summary.content["session"]
    begin, end = clock.units[1][0], clock.units[-1][0]
    steady = [percent for at, percent in samples if begin < at < end]
    return {
        "ms_per_image": 1000 * steady_per_image(clock, at_once=2).wall_s,
        "busy_share": session["device_busy_share"],
        "driver_busy_share": statistics.mean(steady) / 100 if steady else float("nan"),
        "first_unit_s": clock.units[0][0] - clock.started_at,
        "total_s": session["wall_s"],
        "cpu_ms_per_image": 1000 * steady_per_image(clock, at_once=2).cpu_s,
    }


def find_resources() -> Any:
    """What an actor would get on this machine."""
    from sam3lt_ray.config.schema import ComputeSettings
    from sam3lt_ray.pipeline.actor_plan import plan_actors
    from sam3lt_ray.pipeline.ray_session import ray_session

    with ray_session(ComputeSettings()):
        return plan_actors(ComputeSettings(), weight_bytes=1 << 30)


def write_shards(folder: Path, num_images: int) -> None:
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        photos = list(pool.map(partial(make_photo, "one size"), range(min(num_images, DISTINCT_PHOTOS))))
    for shard, first in enumerate(range(0, num_images, 2 * IMAGES_PER_UNIT)):
        numbers = range(first, min(first + 2 * IMAGES_PER_UNIT, num_images))
        members = [(f"{number:05d}.jpg", photos[number % len(photos)]) for number in numbers]
        write_tar(folder / f"{shard:03d}.tar", members)


def make_checkpoint(folder: Path) -> str:
    from sam3lt_ray.benchmark.random_checkpoint import make_random_checkpoint

    return str(make_random_checkpoint(folder, "full"))


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    on_gpu = shutil.which("nvidia-smi") is not None
    workloads = ON_GPU if on_gpu else ON_CPU
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for num_images in {pipeline for pipeline, _ in workloads.values()}:
            write_shards(Path(scratch) / f"{num_images}", num_images)
        checkpoint = (
            "demo" if options.quick or not on_gpu else in_fresh_process(make_checkpoint, Path(scratch) / "checkpoint")
        )
        resources = in_fresh_process(find_resources)
        for num_prompts, (num_images, bare_images) in workloads.items():
            shards = Path(scratch) / f"{num_images}"
            bare = in_fresh_process(run_bare, shards, num_prompts, checkpoint, bare_images, resources)
            pipeline = in_fresh_process(run_pipeline, shards, num_prompts, checkpoint)
            share = bare["ms_per_image"] / pipeline["ms_per_image"]
            rows.append(
                [
                    f"{num_prompts} prompts",
                    f"{bare['ms_per_image']:.1f}",
                    f"{pipeline['ms_per_image']:.1f}",
                    f"{100 * share:.1f}",
                    f"{100 * pipeline['busy_share']:.1f}",
                    f"{100 * pipeline['driver_busy_share']:.1f}",
                    f"{pipeline['cpu_ms_per_image']:.1f}",
                    f"{pipeline['first_unit_s']:.0f}",
                ]
            )
            figures[str(num_prompts)] = {
                "images": num_images,
                "bare": bare,
                "pipeline": pipeline,
                "share_of_bare": share,
            }
            print(f"{num_prompts} prompts: {figures[str(num_prompts)]}", flush=True)
    headers = ["", "bare, ms/image", "pipeline, ms/image", "of bare, %", "busy, %", "busy (driver), %"]
    print_table([*headers, "CPU ms/image", "first unit after, s"], rows)
    finish(options, {"resources": str(resources), "by_prompts": figures}, load_before)


if __name__ == "__main__":
    main()
