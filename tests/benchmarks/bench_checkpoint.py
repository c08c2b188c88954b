"""Taking up a killed job: ours against Ray Data's own checkpointing (``ray.data.checkpoint``) on the same work.

    python -m tests.benchmarks.bench_checkpoint [--quick] [--json FILE]

1. Killed at half: 8 Parquet shards on moto's S3, which counts; SIGKILL for all processes of the job when half of the
   images are committed; then the same command again. "Read again" is what the second start reads of the input beyond
   the share of the images that were not committed.
2. Killed in a commit, at its worst moment: see ``commit_fault`` of both jobs. Then the same command again.
3. Much is done: jobs that have finished so many images, which are not in the input any more, and find 100 new ones. On
   SeaweedFS.

Every start is a process of its own.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_memory import noise_jpegs
from tests.benchmarks.measuring import finish, load_now, print_table, read_options
from tests.benchmarks.resumable_jobs import INPUT, NEW_SHARD, OurJob, ResumableJob, TheirJob, write_shard
from tests.benchmarks.watched_driver import Seen, watch_driver
from tests.servers.moto_s3 import MotoS3, run_moto_s3
from tests.servers.s3_server import S3Bucket, S3Server, credential_environment
from tests.servers.seaweed import run_seaweed

JOBS: tuple[type[ResumableJob], ...] = (OurJob, TheirJob)
NUM_SHARDS = 8
IMAGES_PER_COMMIT = 50
SECONDS_PER_IMAGE = 0.01
NEW_IMAGES = 100


@dataclass(frozen=True)
class Resumed:
    """A job that was killed and started again.

    Attributes:
        second: The second start.
        committed: Images that were committed when it was killed.
        needed_mb: Input of those that were not.
        read_mb: Input that the second start read.
        lost: Images without a label in the end.
        twice: Images with more than one.
    """

    second: Seen
    committed: int
    needed_mb: float
    read_mb: float
    lost: int
    twice: int


def resumed(
    kind: type[ResumableJob], server: MotoS3, folder: Path, images: Sequence[bytes], *, in_commit: bool
) -> Resumed:
    """Kill a job at half, or in a commit, and start it again."""
    bucket = server.new_bucket()
    sizes = [write_shard(bucket, f"{n}.parquet", n * len(images), list(images)) for n in range(NUM_SHARDS)]
    total, input_mb = NUM_SHARDS * len(images), sum(sizes) / 1e6
    job = kind(bucket, folder, IMAGES_PER_COMMIT, sum(sizes) // total, SECONDS_PER_IMAGE)
    server.clear_faults()
    if in_commit:
        server.spoil(job.commit_fault)

    def is_time(committed: int) -> bool:
        return any(one.status == 0 for one in server.requests) if in_commit else committed >= total // 2

    log = folder / f"{kind.name}.log"
    first = watch_driver(job.command(), log, job.num_committed, kill_when=is_time)
    assert first.exit_code is None, log.read_text()[-3000:]
    assert not first.note, first
    server.clear_faults()
    committed = job.num_committed()
    server.forget_requests()
    second = watch_driver(job.command(), log, job.num_committed)
    reads = [one for one in server.requests if one.key.startswith(INPUT) and one.kind == "GetObject"]
    counts = Counter(job.ids())
    return Resumed(
        second,
        committed,
        needed_mb=input_mb * (total - committed) / total,
        read_mb=sum(one.bytes_sent for one in reads) / 1e6,
        lost=total - len(counts),
        twice=sum(1 for count in counts.values() if count > 1),
    )


def much_done(kind: type[ResumableJob], server: S3Server, folder: Path, num_done: int, images: list[bytes]) -> Seen:
    """One start that finds little new."""
    bucket: S3Bucket = server.new_bucket()
    size = write_shard(bucket, NEW_SHARD, num_done, images)
    job = kind(bucket, folder, IMAGES_PER_COMMIT, size // len(images), 0.0)
    job.make_up_done(num_done)
    log = folder / f"{kind.name}-{num_done}.log"
    seen = watch_driver(job.command(), log, job.num_committed)
    assert seen.note or (seen.exit_code == 0 and job.num_committed() == len(images)), log.read_text()[-3000:]
    return seen


def rows_of_resumed(what: str, found: dict[str, Resumed]) -> list[list[str]]:
    """Lines of the table."""
    cells = [
        [
            f"{one.committed:,}",
            f"{one.needed_mb:.2f}",
            f"{one.read_mb - one.needed_mb:.2f}",
            f"{one.second.first_s or float('nan'):.1f}",
            f"{one.lost}, {one.twice}, {one.second.exit_code}",
        ]
        for one in found.values()
    ]
    names = [f"{what}: images committed", "... MB of input needed for the others", "... MB read again"]
    names += ["... s to the first new image", "... images lost, labeled twice, exit code"]
    return [[name, *row] for name, row in zip(names, zip(*cells, strict=True), strict=True)]


def rows_of_much_done(num_done: int, seen: dict[str, Seen]) -> list[list[str]]:
    """Lines of the table."""
    cells = [
        [
            f"{one.driver_mb:,.0f}",
            f"{one.actors_mb:,.0f}",
            f"{one.task_mb:,.0f}",
            f"{one.total_mb:,.0f}",
            one.note or f"{one.first_s or float('nan'):.1f}",
        ]
        for one in seen.values()
    ]
    names = [f"{num_done:,} done: driver, MB", "... its actors, MB", "... largest other worker, MB"]
    names += ["... everything, MB", "... s to the first new image"]
    return [[name, *row] for name, row in zip(names, zip(*cells, strict=True), strict=True)]


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    os.environ.update(credential_environment())  # drivers and Ray's workers inherit it
    per_shard, sizes = (50, (10_000,)) if options.quick else (250, (100_000, 1_000_000, 10_000_000))
    images, rows = noise_jpegs(per_shard), list[list[str]]()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with run_moto_s3(folder) as moto:
            for what, in_commit in (("killed at half", False), ("killed in a commit", True)):
                found = {kind.name: resumed(kind, moto, folder, images, in_commit=in_commit) for kind in JOBS}
                rows += rows_of_resumed(what, found)
                figures[what] = {job: {**vars(one), "second": vars(one.second)} for job, one in found.items()}
                print(f"{what}: done at {time.strftime('%H:%M:%S')}, load {load_now()}", flush=True)
        with run_seaweed(folder) as seaweed:
            for size in sizes:
                seen = {kind.name: much_done(kind, seaweed, folder, size, images[:NEW_IMAGES]) for kind in JOBS}
                rows += rows_of_much_done(size, seen)
                figures[f"{size} done"] = {job: vars(one) for job, one in seen.items()}
                print(f"{size:,} done: done at {time.strftime('%H:%M:%S')}, load {load_now()}", flush=True)
    print_table(["", *(kind.name for kind in JOBS)], rows)
    finish(options, figures, load_before)


if __name__ == "__main__":
    main()
