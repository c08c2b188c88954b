"""Taking up a killed job: ours against Ray Data's own checkpointing (``ray.data.checkpoint``), on the same input.

    python -m tests.benchmarks.bench_checkpoint [--quick] [--json FILE]

1. Killed at half: Parquet shards on moto's S3, a stand-in for the model, SIGKILL when half of the images are committed,
   then the same command again: bytes read of the input, and the rows that are there in the end.
2. Much is done: a job of which so many images are finished and 1,000 are not. What the driver and the largest worker
   hold, and the time to the first new output.
3. Killed within a commit: Ray Data renames a checkpoint file, on S3 a copy and a delete. Between the two both names are
   there; that state is put together and the job started again. Ours has one PUT and no such moment.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.totals import RunTotals
from sam3lt_ray.records import Shard, UnitRange
from sam3lt_ray.storage.ledger import unit_path
from sam3lt_ray.storage.snapshot import write_snapshot
from sam3lt_ray.storage.store import open_store
from tests.benchmarks.bench_memory import noise_jpegs
from tests.benchmarks.checkpointed_job import CheckpointedJob
from tests.benchmarks.measuring import finish, load_now, print_table, read_options
from tests.benchmarks.processes import resident_by_command
from tests.servers.moto_s3 import MotoS3, run_moto_s3
from tests.servers.s3_server import S3Bucket, credential_environment

ROOT = Path(__file__).resolve().parents[2]
NUM_SHARDS = 8
INPUT = "input/"
IMAGES_PER_UNIT = 50
SECONDS_PER_IMAGE = 0.01


@dataclass
class Seen:
    """What was seen of a process.

    Attributes:
        first_s: From its start to its first new output.
        driver_mb: The most its driver held.
        worker_mb: The most that any one of its Ray workers held.
        worker: Which one.
    """

    first_s: float | None = None
    wall_s: float = 0.0
    driver_mb: float = 0.0
    worker_mb: float = 0.0
    worker: str = ""


def shard_bytes(first: int, images: list[bytes]) -> bytes:
    """A Parquet shard with a column of ids and one of images."""
    table = pa.table({"id": [f"{first + n:032d}" for n in range(len(images))], "image": images})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=25, compression="none")
    return sink.getvalue()


def our_command(folder: Path, input_uri: str, output: str, endpoint_url: str, seconds_per_image: float) -> list[str]:
    """The job's driver, with the stand-in."""
    config = {
        "run": {"output": output},
        "input": {"format": "parquet", "uri": input_uri, "key_column": "id", "images_per_unit": IMAGES_PER_UNIT},
        "vocabulary": ["red circle"],
        "storage": {"endpoint_url": endpoint_url or None},
        "compute": {"device": "cpu", "actors": 1},
    }
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return [sys.executable, "-m", "tests.label_with_standin", str(file), str(seconds_per_image)]


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A driver in a process group of its own, which is gone afterwards with all that it started."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def watch(command: list[str], log: Path, count: Callable[[], int], *, kill_at: int | None = None) -> Seen:
    """Run a driver to its end, or until ``count()`` has reached ``kill_at``."""
    seen, start, before = Seen(), time.time(), count()
    with running(command, log) as process:
        while process.poll() is None:
            now = count()
            if seen.first_s is None and now > before:
                seen.first_s = time.time() - start
            if kill_at is not None and now >= kill_at:
                break
            for name, size_mb in resident_by_command(process.pid):
                if not name:
                    seen.driver_mb = max(seen.driver_mb, size_mb)
                elif size_mb > seen.worker_mb:
                    seen.worker_mb, seen.worker = size_mb, name
            time.sleep(0.2)
        seen.wall_s = time.time() - start
        if kill_at is None and process.returncode != 0:
            raise RuntimeError(f"{command[2]} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return seen


# ---- 1. killed at half


@dataclass
class Killed:
    """One tool after a kill."""

    seen: Seen
    input_mb: float
    rows: int
    distinct: int


def killed_at_half(tool: str, server: MotoS3, bucket: S3Bucket, folder: Path, images: int) -> Killed:
    """Kill a job and start it again."""
    out = f"{tool}/"
    if tool == "sam3lt":
        command = our_command(folder, bucket.uri(INPUT), bucket.uri("sam3lt"), server.endpoint_url, SECONDS_PER_IMAGE)
        prefix, id_column = f"{out}labels/", "key"
    else:
        paths = [f"{bucket.name}/{part}" for part in (INPUT, f"{out}data", f"{out}checkpoint")]
        command = CheckpointedJob(
            *paths, endpoint_url=server.endpoint_url, seconds_per_image=SECONDS_PER_IMAGE
        ).command()
        prefix, id_column = f"{out}data/", "id"
    known: dict[str, int] = {}

    def count() -> int:
        for key in bucket.keys(prefix):
            # Ray Data's files are there, empty, before they are written.
            if key not in known and key.endswith(".parquet") and (content := bucket.get(key)):
                known[key] = pq.read_metadata(io.BytesIO(content)).num_rows
        return sum(known.values())

    log = folder / f"{tool}.log"
    watch(command, log, count, kill_at=images // 2)
    time.sleep(10)  # what the kill left of Ray goes away
    done = count()
    server.forget_requests()
    seen = watch(command, log, count)
    reads = [one for one in server.requests if one.key.startswith(INPUT) and one.kind == "GetObject"]
    tables = [pq.read_table(io.BytesIO(bucket.get(key)), columns=[id_column]) for key in known]
    ids = Counter(pa.concat_tables([t.replace_schema_metadata(None) for t in tables]).column(0).to_pylist())
    print(f"{tool}: killed with {done} of {images} committed", flush=True)
    return Killed(seen, sum(one.bytes_sent for one in reads) / 1e6, sum(ids.values()), len(ids))


# ---- 2. much is done


def much_is_done(tool: str, num_done: int, folder: Path, images: list[bytes]) -> Seen:
    """A continuation with so many finished images, on the local disk; 1,000 images are new."""
    folder.mkdir()
    source, output = folder / "input", folder / "output"
    source.mkdir()
    (source / "new.parquet").write_bytes(shard_bytes(10**9, images))
    if tool == "sam3lt":
        store = open_store(str(output), StorageSettings())
        totals, units = RunTotals(store), num_done // 256
        for number in range(units):  # four units a shard, and their shards are gone from the input
            name = f"{number // 4:07d}.parquet"
            file = output / unit_path("000", name, UnitRange(number % 4 * 256, 256, number % 4 == 3))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            totals.add(str(file.relative_to(output)), 0, UnitCounts(256))
        totals.count(list(store.list("labels")), save=True)
        write_snapshot(store, [Shard(f"{n:07d}.parquet", f"/gone/{n:07d}.parquet") for n in range(-(-units // 4))])
        command = our_command(folder, str(source), str(output), "", 0.0)
        new = output / "labels" / "000"

        def count() -> int:
            return len(list(new.glob("new.parquet-*/*.parquet")))
    else:
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir()
        for number, first in enumerate(range(0, num_done, 1_000_000)):
            ids = pa.array([f"{n:032d}" for n in range(first, min(num_done, first + 1_000_000))])
            pq.write_table(pa.table({"id": ids}), checkpoint / f"{number:06d}.parquet")
        output.mkdir()
        command = CheckpointedJob(str(source), str(output), str(checkpoint)).command()

        def count() -> int:
            return len(list(output.glob("*.parquet")))

    return watch(command, folder / "log", count)


# ---- 3. killed within a commit


def killed_within_a_commit(server: MotoS3, bucket: S3Bucket, folder: Path) -> tuple[int, int]:
    """Rows before and after a resume from the state between Ray Data's copy and its delete."""
    paths = [f"{bucket.name}/{part}" for part in (INPUT, "ray/data", "ray/checkpoint")]
    job = CheckpointedJob(*paths, endpoint_url=server.endpoint_url)

    def rows() -> int:
        keys = [key for key in bucket.keys("ray/data/") if key.endswith(".parquet")]
        return sum(pq.read_metadata(io.BytesIO(bucket.get(key))).num_rows for key in keys)

    before = rows()
    committed = next(key for key in bucket.keys("ray/checkpoint/") if key.endswith(".parquet"))
    bucket.put(committed.removesuffix(".parquet") + ".pending.parquet", bucket.get(committed))
    watch(job.command(), folder / "commit.log", lambda: 0)
    return before, rows()


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    os.environ.update(credential_environment())
    per_shard, sizes = (100, (100_000,)) if options.quick else (250, (100_000, 1_000_000, 10_000_000))
    images = noise_jpegs(per_shard)
    figures: dict[str, Any] = {}
    rows: list[list[str]] = []

    def note(*cells: str) -> None:
        rows.append(list(cells))
        print(" | ".join(cells), flush=True)

    tools = ("sam3lt", "ray")
    with tempfile.TemporaryDirectory() as name, run_moto_s3(Path(name)) as server:
        folder, bucket = Path(name), server.new_bucket()
        for shard in range(NUM_SHARDS):
            bucket.put(f"{INPUT}{shard:03d}.parquet", shard_bytes(shard * per_shard, images))
        whole_mb = sum(len(bucket.get(key)) for key in bucket.keys(INPUT)) / 1e6
        total = NUM_SHARDS * per_shard
        killed = {tool: killed_at_half(tool, server, bucket, folder, total) for tool in tools}
        figures["killed"] = {tool: {**vars(one), "seen": vars(one.seen)} for tool, one in killed.items()}
        note(f"killed at half: read of {whole_mb:.1f} MB, MB", *(f"{killed[t].input_mb:.1f}" for t in tools))
        note("... s to the first new output", *(f"{killed[t].seen.first_s or 0:.1f}" for t in tools))
        note(f"... rows of {total:,}", *(f"{killed[t].rows:,}, {killed[t].distinct:,} different" for t in tools))
        before, after = killed_within_a_commit(server, bucket, folder)
        figures["within_a_commit"] = {"rows_before": before, "rows_after": after}
        note("killed within a commit: rows lost, exit code 0", "0", f"{before - after:,}")
        for size in sizes:
            seen = {tool: much_is_done(tool, size, folder / f"{tool}-{size}", images) for tool in tools}
            figures[f"done {size}"] = {tool: vars(one) for tool, one in seen.items()}
            note(f"{size:,} images done: driver, MB", *(f"{seen[t].driver_mb:,.0f}" for t in tools))
            note("... largest worker, MB", *(f"{seen[t].worker_mb:,.0f}" for t in tools))
            note("... s to the first new output", *(f"{seen[t].first_s or 0:.1f}" for t in tools))
            print({tool: seen[tool].worker for tool in tools}, "load", load_now(), flush=True)
    print_table(["", "sam3lt", "ray.data.checkpoint"], rows)
    finish(options, figures, load_before)


if __name__ == "__main__":
    main()
