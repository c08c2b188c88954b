"""Two jobs that label the same Parquet shards on S3 and can be killed: ours, and one with Ray Data's checkpointing."""

from __future__ import annotations

import io
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.totals import RunTotals
from sam3lt_ray.records import UnitRange
from sam3lt_ray.storage.ledger import parse_unit_path, shard_directory, unit_path
from sam3lt_ray.storage.store import open_store
from tests.benchmarks.checkpointed_job import CheckpointedJob
from tests.servers.faults import Fault
from tests.servers.s3_server import S3Bucket

INPUT, NEW_SHARD, LABEL = "input/", "new.parquet", "red circle"
# Ours are the default of input.images_per_unit and a common size of shards; theirs are larger blocks than 128 MiB of
# photographs make, to their advantage, and never more than 100: Ray starts an actor for some of them to read footers.
UNITS_PER_SHARD, IMAGES_PER_UNIT, LEAST_IDS_PER_FILE, MOST_FILES = 4, 256, 10_000, 100
_THREADS = 8


def made_up_id(number: int) -> str:
    """As long as an image_id."""
    return f"{number:032d}"


def write_shard(bucket: S3Bucket, name: str, first: int, images: list[bytes]) -> int:
    """A Parquet shard with a column of ids and one of images; returns its size in bytes."""
    table = pa.table({"id": [made_up_id(first + number) for number in range(len(images))], "image": images})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=25, compression="none")
    bucket.put(f"{INPUT}{name}", sink.getvalue())
    return len(sink.getvalue())


class ResumableJob(ABC):
    """A job over the shards of a bucket.

    Args:
        bucket: Where everything is.
        folder: For what the driver needs on disk.
        images_per_commit: What is committed together, about.
        image_bytes: Size of an image, about.
        seconds_per_image: What the stand-in for a model takes.

    Attributes:
        name: Whose it is.
        output: Prefix of its files of labels.
        commit_fault: Stops a commit at its most delicate moment, once some commits have passed.
    """

    name: str
    output: str
    commit_fault: Fault

    def __init__(
        self, bucket: S3Bucket, folder: Path, images_per_commit: int, image_bytes: int, seconds_per_image: float
    ) -> None:
        self._bucket = bucket
        self._folder = folder
        self._images_per_commit = images_per_commit
        self._image_bytes = image_bytes
        self._seconds_per_image = seconds_per_image
        self._known: dict[str, int] = {}

    @abstractmethod
    def command(self) -> list[str]:
        """Starts the driver, and continues its work after a kill."""

    @abstractmethod
    def make_up_done(self, num_images: int) -> None:
        """What a job leaves behind that has finished so many images, none of which is in the input any more."""

    def num_committed(self) -> int:
        """Images in files of labels."""
        present = [key for key in self._bucket.keys(self.output) if key.endswith(".parquet")]
        self._known = {key: self._known.get(key) or self._count(key) for key in present}
        return sum(self._known.values())

    def ids(self) -> list[str]:
        """Of all images in files of labels, as often as they are there."""
        keys = [key for key in self._bucket.keys(self.output) if key.endswith(".parquet")]
        return [str(one) for key in keys for one in self._read(key).column("key").to_pylist()]

    def _count(self, key: str) -> int:
        return self._read(key).num_rows

    def _read(self, key: str) -> pa.Table:
        return pq.read_table(io.BytesIO(self._bucket.get(key)), columns=["key"])


class OurJob(ResumableJob):
    """``sam3lt label`` with the stand-in. A commit is one PUT: the worst is that it is done and nobody hears of it."""

    name = "sam3lt"
    output = "sam3lt/run/labels/"
    commit_fault = Fault("lose_answer", kind="PutObject", key_part="/labels/", after=3)

    def command(self) -> list[str]:
        """The driver."""
        config = {
            "run": {"output": self._bucket.uri(f"{self.name}/run")},
            "input": {
                "format": "parquet",
                "uri": self._bucket.uri(INPUT),
                "key_column": "id",
                "images_per_unit": self._images_per_commit,
            },
            "vocabulary": [LABEL],
            "storage": {"endpoint_url": self._bucket.server.endpoint_url},
            "compute": {"device": "cpu", "actors": 1},
        }
        file = self._folder / "config.json"
        file.write_text(json.dumps(config))
        seconds = str(self._seconds_per_image)
        return [sys.executable, "-m", "tests.label_with_standin", str(file), "--seconds-per-image", seconds]

    def make_up_done(self, num_images: int) -> None:
        """Names of unit files, which nobody reads, and the sums over them."""
        run = f"{self.name}/run/"
        store = open_store(self._bucket.uri(run), self._bucket.storage())
        totals, paths = RunTotals(store), []
        for unit in range(-(-num_images // IMAGES_PER_UNIT)):
            shard, position = divmod(unit, UNITS_PER_SHARD)
            is_last = position == UNITS_PER_SHARD - 1
            unit_range = UnitRange(position * IMAGES_PER_UNIT, IMAGES_PER_UNIT, is_last)
            paths.append(unit_path("000", f"{shard:07d}.parquet", unit_range))
            totals.add(paths[-1], UnitCounts(IMAGES_PER_UNIT))
        totals.save()
        _at_once(lambda path: self._bucket.put(f"{run}{path}", b""), paths)
        self.output = f"{run}labels/000/{shard_directory(NEW_SHARD)}/"  # the others are many, and not new

    def _count(self, key: str) -> int:
        unit = parse_unit_path(key.removeprefix(f"{self.name}/run/"))
        return 0 if unit is None else unit.range.count


class TheirJob(ResumableJob):
    """Ray Data's checkpointing. On S3 its commit is a copy and a delete: the worst is that both names are there."""

    name = "ray"
    output = "ray/data/"
    commit_fault = Fault("refuse", 1_000_000, "DeleteObject", ".pending.parquet", after=3)

    def job(self) -> CheckpointedJob:
        """What it does."""
        return CheckpointedJob(
            self._bucket.server.endpoint_url,
            input=f"{self._bucket.name}/{INPUT}",
            output=f"{self._bucket.name}/ray/data",
            checkpoint=f"{self._bucket.name}/ray/checkpoint",
            label=LABEL,
            images_per_block=self._images_per_commit,
            image_bytes=self._image_bytes,
            seconds_per_image=self._seconds_per_image,
        )

    def command(self) -> list[str]:
        """The driver."""
        return self.job().command()

    def make_up_done(self, num_images: int) -> None:
        """Files of the checkpoint, by Ray's own writer."""
        from ray.data.checkpoint.checkpoint_writer import CheckpointWriter

        writer = CheckpointWriter.create(self.job().checkpoint_config())
        ids_per_file = max(LEAST_IDS_PER_FILE, num_images // MOST_FILES)

        def write(number: int) -> None:
            first = number * ids_per_file
            ids = pa.array([made_up_id(n) for n in range(first, min(num_images, first + ids_per_file))])
            pending = writer.write_pending_checkpoint(ids, f"{'0' * 32}_{number:06d}_000000")
            assert pending is not None
            writer.commit_checkpoint(pending)

        _at_once(write, range(-(-num_images // ids_per_file)))


def _at_once(function: Callable[[Any], None], values: Any) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(function, values):
            pass
