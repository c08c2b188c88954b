"""How many requests S3 gets for 1,000 images, and what that costs for a billion.

    python -m tests.benchmarks.bench_requests [--quick] [--json FILE]

Input and run directory on moto's S3, shards of 1,000 images in units of the default size, a stand-in for the model.
Runs with 2 and with 6 shards are made: the difference is what 4,000 images cost, the rest is what a start costs. Then
the larger one is started once more, when nothing is missing. Prices stand in s3_prices.py.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

from sam3lt_ray.config.schema import Config
from tests.benchmarks.bench_memory import noise_jpegs
from tests.benchmarks.measuring import finish, load_now, print_table, read_options
from tests.benchmarks.s3_prices import AS_OF, price_usd
from tests.servers.moto_s3 import MotoS3, run_moto_s3
from tests.servers.s3_server import S3Bucket, credential_environment
from tests.standin import load_standin, write_tar

IMAGES_PER_SHARD = 1000
FEW, MANY = 2, 6


def fill(bucket: S3Bucket, num_shards: int) -> None:
    """Shards of small JPEGs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.tar"
        images = noise_jpegs(IMAGES_PER_SHARD)
        write_tar(path, [(f"{number:05d}.jpg", image) for number, image in enumerate(images)])
        bucket.put_all({f"shards/{shard:03d}.tar": path.read_bytes() for shard in range(num_shards)})


def start_run(bucket: S3Bucket, server: MotoS3, images_per_unit: int) -> Counter[str]:
    """Requests of one start by place and kind: "input GetObject"."""
    from sam3lt_ray.pipeline.run import label_run

    config = Config.model_validate(
        {
            "run": {"output": bucket.uri("run")},
            "input": {"format": "webdataset", "uri": bucket.uri("shards/"), "images_per_unit": images_per_unit},
            "vocabulary": ["red circle", "star"],
            "storage": {"endpoint_url": server.endpoint_url},
            "compute": {"device": "cpu"},
        }
    )
    server.forget_requests()
    summary = label_run(config, load_engine=load_standin)
    assert summary.status == "done", summary.message
    return Counter(f"{_place(one.key)} {one.kind}" for one in server.requests)


def _place(key: str) -> str:
    return "input" if key.startswith("shards/") else "units" if key.startswith("run/labels/") else "run"


def cost_usd(requests: Counter[str]) -> float:
    """Price of requests by place and kind."""
    by_kind: Counter[str] = Counter()
    for name, count in requests.items():
        by_kind[name.split()[1]] += count
    return price_usd(by_kind)


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    os.environ.update(credential_environment())
    rows, figures = [], {}
    for images_per_unit in (256,) if options.quick else (256, 1000):
        with tempfile.TemporaryDirectory() as folder, run_moto_s3(Path(folder)) as server:
            buckets = server.new_bucket(), server.new_bucket()
            for bucket, num_shards in zip(buckets, (FEW, MANY), strict=True):
                fill(bucket, num_shards)
            few, many = (start_run(bucket, server, images_per_unit) for bucket in buckets)
            nothing = start_run(buckets[1], server, images_per_unit)
        thousands = (MANY - FEW) * IMAGES_PER_SHARD / 1000
        # What belongs to shards and units grows with them; the rest is a start's, and depends on how long it takes.
        for name in sorted(name for name in many if not name.startswith("run ")):
            per_thousand = (many[name] - few[name]) / thousands
            cost = price_usd({name.split()[1]: per_thousand}) * 1e6
            rows.append([f"units of {images_per_unit}: {name}", f"{per_thousand:.2f}", f"{cost:.2f}"])
        own = Counter({name: count for name, count in many.items() if name.startswith("run ")})
        rows.append([f"units of {images_per_unit}: a start, in all", str(sum(own.values())), f"{cost_usd(own):.5f}"])
        rows.append(["... a start with nothing to do", str(sum(nothing.values())), f"{cost_usd(nothing):.5f}"])
        figures[images_per_unit] = {"few": few, "many": many, "nothing": nothing}
    print_table(["requests", "per 1,000 images", f"USD for 1e9 images ({AS_OF})"], rows)
    finish(options, {"requests": figures}, load_before)


if __name__ == "__main__":
    main()
