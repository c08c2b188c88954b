"""``python -m tests.benchmarks.checkpointed_job JSON``: a labeling job with Ray Data's own checkpointing.

Parquet shards in, the same stand-in for the model as in our job, Parquet files out, ``CheckpointConfig`` on the column
of ids: as Ray's documents show it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from sam3lt_ray.labels.rows import build_rows
from sam3lt_ray.labels.schema import LABEL_SCHEMA
from sam3lt_ray.records import EncodedImage, Unit, UnitRange
from sam3lt_ray.stages.label import ImageLabeler
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from tests.standin import StandInEngine

if TYPE_CHECKING:
    from ray.data.checkpoint import CheckpointConfig

# The actors of Ray's filter take a CPU each, besides readers, labeler and writers: with two a resumed job hangs.
NUM_CPUS = 4
OBJECT_STORE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class CheckpointedJob:
    """What it works on.

    Attributes:
        endpoint_url: The S3 server.
        input: "bucket/prefix" of the shards.
        output: "bucket/prefix" of the labels.
        checkpoint: "bucket/prefix" of the checkpoint.
        label: The one label.
        images_per_block: What is labeled and committed together, about.
        image_bytes: Size of an image, about.
        seconds_per_image: What the stand-in takes.
    """

    endpoint_url: str
    input: str
    output: str
    checkpoint: str
    label: str
    images_per_block: int
    image_bytes: int
    seconds_per_image: float

    def command(self) -> list[str]:
        """What runs it in a process of its own."""
        return [sys.executable, "-m", "tests.benchmarks.checkpointed_job", json.dumps(asdict(self))]

    def filesystem(self) -> fs.S3FileSystem:
        """Ray's way to the server."""
        return fs.S3FileSystem(
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region=os.environ["AWS_REGION"],
            scheme="http",
            endpoint_override=urlsplit(self.endpoint_url).netloc,
            allow_bucket_creation=True,
        )

    def checkpoint_config(self) -> CheckpointConfig:
        """Kept after a success, because a job over a growing input needs it again."""
        from ray.data.checkpoint import CheckpointConfig

        return CheckpointConfig(
            id_column="id",
            checkpoint_path=self.checkpoint,
            override_filesystem=self.filesystem(),
            delete_checkpoint_on_success=False,
        )


class Labeler:
    """Labels a block as our job labels a unit; the id stays, as the checkpoint wants it."""

    def __init__(self, job: CheckpointedJob) -> None:
        self._labeler = ImageLabeler(
            StandInEngine(1, job.seconds_per_image),
            Vocabulary((Label(1, job.label, (job.label,)),), ""),
            merge_iou=0.7,
            max_pixels=10**8,
            decode_threads=1,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        images = tuple(EncodedImage(n, row["id"], row["image"]) for n, row in enumerate(table.to_pylist()))
        unit = Unit("", UnitRange(0, len(images), is_last=False), images)
        labeled = build_rows(unit, self._labeler.label_unit(unit)[0], loose_files=False)
        return pa.Table.from_pylist(labeled, schema=LABEL_SCHEMA).append_column("id", table.column("id"))


def main() -> None:
    """Run until all is done."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    job = CheckpointedJob(**json.loads(sys.argv[1]))
    ray.init(
        address="local",
        num_cpus=NUM_CPUS,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # Small images stand for large ones, so blocks are as small as our units instead of 128 MiB.
    context.target_max_block_size = job.images_per_block * job.image_bytes
    context.checkpoint_config = job.checkpoint_config()
    dataset = ray.data.read_parquet(job.input, filesystem=job.filesystem())
    labeled = dataset.map_batches(
        Labeler,
        fn_constructor_args=(job,),
        batch_size=job.images_per_block,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
    )
    labeled.write_parquet(job.output, filesystem=job.filesystem())
    ray.shutdown()


if __name__ == "__main__":
    main()
