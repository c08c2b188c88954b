"""What it costs to take a stopped run up again: time, requests and bytes, on an S3 server that counts them.

    python -m tests.benchmarks.bench_resume [--quick] [--json FILE]

10,000 images in 10 WebDataset shards, input and run directory on moto's S3, a stand-in that takes no time for the
model. After a whole run, the last x % of the unit files are deleted, as if the run had been killed before it wrote
them; then it is started again. "Input needed" is what those units' images take up in their tars.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sam3lt_ray.config.schema import Config
from sam3lt_ray.storage.ledger import LABELS_PREFIX, parse_unit_path
from tests.benchmarks.bench_memory import noise_jpegs
from tests.benchmarks.measuring import UnitClock, finish, load_now, print_table, read_options, spread
from tests.servers.moto_s3 import MotoS3, run_moto_s3
from tests.servers.s3_server import S3Bucket, credential_environment
from tests.standin import load_standin, write_tar

NUM_SHARDS = 10
IMAGES_PER_UNIT = 100
INPUT, RUN = "shards/", "run/"


@dataclass(frozen=True)
class Start:
    """What one start took. Input is what came from the shards; everything else is the run directory and listings."""

    wall_s: float
    planned_s: float
    first_unit_s: float | None
    images: int
    input_requests: int
    input_bytes: int
    other_requests: int
    other_bytes: int
    by_kind: dict[str, int]


def fill(bucket: S3Bucket, images_per_shard: int) -> None:
    images = noise_jpegs(images_per_shard)
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(NUM_SHARDS):
            path = Path(folder) / f"{shard:03d}.tar"
            write_tar(path, [(f"{shard:03d}-{number:05d}.jpg", image) for number, image in enumerate(images)])
            bucket.put(f"{INPUT}{path.name}", path.read_bytes())


def start_run(bucket: S3Bucket, server: MotoS3) -> Start:
    """One start of the job, with Ray's start and end in it, as a person pays for it."""
    from sam3lt_ray.pipeline.run import label_run

    config = Config.model_validate(
        {
            "run": {"output": bucket.uri(RUN)},
            "input": {"format": "webdataset", "uri": bucket.uri(INPUT), "images_per_unit": IMAGES_PER_UNIT},
            "vocabulary": ["red circle", "star"],
            "storage": {"endpoint_url": server.endpoint_url},
            "compute": {"device": "cpu"},
        }
    )
    server.forget_requests()
    clock = UnitClock()
    summary = label_run(config, load_engine=load_standin, progress=clock)
    wall_s = time.time() - clock.started_at
    assert summary.status == "done", summary.message
    requests = server.requests
    of_input = [one for one in requests if one.key.startswith(INPUT) and one.kind == "GetObject"]
    others = [one for one in requests if one not in of_input]
    return Start(
        wall_s,
        clock.planned_at - clock.started_at,
        clock.units[0][0] - clock.started_at if clock.units else None,
        sum(images for _, images in clock.units),
        len(of_input),
        sum(one.bytes_sent for one in of_input),
        len(others),
        sum(one.bytes_sent for one in others),
        dict(Counter(one.kind for one in requests)),
    )


def delete_last_units(bucket: S3Bucket, percent: int) -> int:
    """Delete unit files from the end; returns the bytes their images take up in the tars."""
    units = [key for key in bucket.keys(f"{RUN}{LABELS_PREFIX}/") if key.endswith(".parquet")]
    lost = units[len(units) - len(units) * percent // 100 :]
    first_lost: dict[str, int] = {}
    for key in lost:
        parsed = parse_unit_path(key.removeprefix(RUN))
        assert parsed is not None
        folder = key.split("/")[-2]
        first_lost[folder] = min(parsed.range.first, first_lost.get(folder, parsed.range.first))
        bucket.delete(key)
    return sum(_bytes_from(bucket.get(f"{INPUT}{folder[:7]}"), first) for folder, first in first_lost.items())


def _bytes_from(tar_bytes: bytes, first: int) -> int:
    with tarfile.open(fileobj=io.BytesIO(tar_bytes)) as tar:
        members = tar.getmembers()
        return members[-1].offset_data + -(-members[-1].size // 512) * 512 - members[first].offset


def row(name: str, starts: Sequence[Start], needed_bytes: int) -> list[str]:
    first = [one.first_unit_s for one in starts if one.first_unit_s is not None]
    last = starts[-1]
    return [
        name,
        f"{last.images:,}",
        spread([one.planned_s for one in starts]).text(),
        spread(first).text() if first else "",
        spread([one.wall_s for one in starts]).text(),
        f"{needed_bytes / 1e6:.2f}",
        f"{last.input_bytes / 1e6:.2f}",
        str(last.input_requests),
        f"{last.other_requests} ({last.other_bytes / 1e6:.2f} MB)",
    ]


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    os.environ.update(credential_environment())  # Ray's workers inherit it
    images_per_shard, shares, turns = (200, (25,), 1) if options.quick else (1000, (10, 25, 50), 2)
    rows, figures = [], {}

    def note(name: str, starts: Sequence[Start], needed_bytes: int) -> None:
        rows.append(row(name, starts, needed_bytes))
        figures[name] = {"needed_bytes": needed_bytes, "starts": [vars(one) for one in starts]}
        print(f"{name}: done, load {load_now()}", flush=True)

    with tempfile.TemporaryDirectory() as folder, run_moto_s3(Path(folder)) as server:
        bucket = server.new_bucket()
        fill(bucket, images_per_shard)
        whole_bytes = sum(len(bucket.get(key)) for key in bucket.keys(INPUT))
        note("all", [start_run(bucket, server)], whole_bytes)
        for share in shares:
            starts: list[Start] = []
            for _ in range(turns):
                needed_bytes = delete_last_units(bucket, share)
                starts.append(start_run(bucket, server))
            note(f"last {share} %", starts, needed_bytes)
        note("nothing", [start_run(bucket, server) for _ in range(turns)], 0)
    print()
    headers = ["missing", "images", "s to plan", "s to first new unit", "s in all"]
    headers += ["input needed, MB", "input read, MB", "GETs of input", "other requests"]
    print_table(headers, rows)
    finish(options, {"images": NUM_SHARDS * images_per_shard, "starts": figures}, load_before)


if __name__ == "__main__":
    main()
