"""Memory does not grow with the input: a run over 20,000 images, looked at every second.

    python -m tests.benchmarks.bench_memory [--quick] [--json FILE]

The model is a stand-in that takes 4 ms per image, so that everything around it is what shows. 20 WebDataset shards
hold 1,000 JPEGs of 96 x 64 noise each (about 10 kB, so 200 MB pass through); units hold 100 images. The figure is
the change of the mean from the second quarter of the labeling time to the fourth.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam3lt_ray.config.schema import Config
from tests.benchmarks.measuring import UnitClock, finish, load_now, print_table, read_options
from tests.benchmarks.processes import MemorySample, sample_memory
from tests.standin import load_standin, write_tar

IMAGES_PER_SHARD = 1000
IMAGES_PER_UNIT = 100
SECONDS_PER_IMAGE = 0.004
OBJECT_STORE_BYTES = 200_000_000
COLUMNS = ("driver_mb", "actor_mb", "tasks_mb", "ray_mb", "object_store_mb", "total_mb")
NAMES = ("driver", "actor", "other workers", "Ray itself", "object store", "sum, MB")


def noise_jpegs(count: int) -> list[bytes]:
    """Small images that compress badly."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=95)
        images.append(buffer.getvalue())
    return images


def write_shards(folder: Path, num_shards: int) -> None:
    images = noise_jpegs(IMAGES_PER_SHARD)
    for shard in range(num_shards):
        # The same pixels in every shard, under other names.
        members = [(f"{shard:03d}-{number:05d}.jpg", image) for number, image in enumerate(images)]
        write_tar(folder / f"{shard:03d}.tar", members)


def drive(folder: str, answer: Connection) -> None:
    """The driver process: the run, and when its units were committed."""
    import ray

    from sam3lt_ray.pipeline.run import label_run

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(
        address="local",
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    config = Config.model_validate(
        {
            "run": {"output": f"{folder}/run"},
            "input": {"format": "webdataset", "uri": f"{folder}/shards", "images_per_unit": IMAGES_PER_UNIT},
            "vocabulary": ["red circle", "star"],
            "compute": {"device": "cpu"},
        }
    )
    clock = UnitClock()
    load_engine = partial(load_standin, seconds_per_image=SECONDS_PER_IMAGE)
    summary = label_run(config, load_engine=load_engine, progress=clock)
    answer.send((summary.to_json(), clock.units))
    ray.shutdown()


def watch(folder: Path) -> tuple[dict[str, Any], list[MemorySample]]:
    """Run the driver and sample it every second; samples of the labeling time only."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    driver = context.Process(target=drive, args=(str(folder), theirs))
    driver.start()
    theirs.close()
    samples: list[MemorySample] = []
    assert driver.pid is not None
    while not ours.poll(1.0):
        samples.append(sample_memory(driver.pid, time.time()))
    try:
        summary, units = ours.recv()
    except EOFError:
        raise SystemExit("the driver ended early; its message is above") from None
    driver.join()
    return summary, [one for one in samples if units[0][0] <= one.at <= units[-1][0]]


def quarter(samples: Sequence[MemorySample], number: int) -> Sequence[MemorySample]:
    return samples[len(samples) * (number - 1) // 4 : len(samples) * number // 4]


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    num_shards = 4 if options.quick else 20
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", num_shards)
        input_mb = sum(path.stat().st_size for path in Path(folder, "shards").iterdir()) / 2**20
        summary, samples = watch(Path(folder))
    session = summary["session"]
    assert summary["images"] == {"total": num_shards * 1000, "ok": num_shards * 1000, "error": 0}, summary["images"]
    print(f"{session['images']['total']:,} images, {input_mb:.0f} MB, {session['labeling_s']:.0f} s of labeling")
    series = [
        [f"{one.at - samples[0].at:.0f}", *(f"{getattr(one, column):.0f}" for column in COLUMNS)] for one in samples
    ]
    print_table(["second", *NAMES], _thinned(series, 12))
    print()
    rows, figures = [], {}
    for column, name in zip(COLUMNS, NAMES, strict=True):
        second, fourth = (
            statistics.mean(getattr(one, column) for one in quarter(samples, number)) for number in (2, 4)
        )
        most = max(getattr(one, column) for one in samples)
        rows.append([name, *(f"{mb:.1f}" for mb in (second, fourth, fourth - second, most))])
        figures[column] = {"second_quarter": second, "fourth_quarter": fourth, "most": most}
    print_table(["MB", "2nd quarter", "4th quarter", "change", "most"], rows)
    finish(
        options,
        {"images": session["images"]["total"], "labeling_s": session["labeling_s"], "parts": figures, "series": series},
        load_before,
    )


def _thinned(rows: list[list[str]], most: int) -> list[list[str]]:
    step = -(-len(rows) // most)
    return rows[::step]


if __name__ == "__main__":
    main()
