"""``python -m tests.benchmarks.checkpointed_job JSON``: Ray Data with its own checkpointing, as its documents show it.

Parquet shards in, a function that takes a constant time per image, Parquet files out, ``CheckpointConfig`` on the id.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa


@dataclass(frozen=True)
class CheckpointedJob:
    """Where things are. Paths are "bucket/prefix" with an endpoint, local paths without.

    Attributes:
        endpoint_url: The S3 server; "": everything is local.
        seconds_per_image: What the stand-in for a model takes.
    """

    input: str
    output: str
    checkpoint: str
    endpoint_url: str = ""
    seconds_per_image: float = 0.0

    def command(self) -> list[str]:
        """What runs it in a process of its own."""
        return [sys.executable, "-m", "tests.benchmarks.checkpointed_job", json.dumps(asdict(self))]


class Standin:
    """Takes its time."""

    def __init__(self, seconds_per_image: float) -> None:
        self._seconds_per_image = seconds_per_image

    def __call__(self, table: pa.Table) -> pa.Table:
        time.sleep(self._seconds_per_image * table.num_rows)
        sizes = pa.array([len(value.as_py()) for value in table.column("image")], pa.int64())
        return pa.table({"id": table.column("id"), "size": sizes})


def main() -> None:
    """Run until all is done."""
    import ray
    from pyarrow import fs
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    job = CheckpointedJob(**json.loads(sys.argv[1]))
    filesystem: Any = fs.LocalFileSystem()
    if job.endpoint_url:
        filesystem = fs.S3FileSystem(
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region=os.environ["AWS_REGION"],
            scheme="http",
            endpoint_override=urlsplit(job.endpoint_url).netloc,
            allow_bucket_creation=True,
        )
    ray.init(
        address="local",
        num_cpus=4,  # the filter's actors take one each, and on two the job waits for ever
        object_store_memory=500_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 500_000  # about 50 of the small images, as 128 MiB are of large ones
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=job.checkpoint,
        override_filesystem=filesystem,
        delete_checkpoint_on_success=False,
    )
    dataset = ray.data.read_parquet(job.input, filesystem=filesystem)
    labeled = dataset.map_batches(
        Standin,
        fn_constructor_args=(job.seconds_per_image,),
        batch_size=50,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
    )
    labeled.write_parquet(job.output, filesystem=filesystem)
    ray.shutdown()


if __name__ == "__main__":
    main()
