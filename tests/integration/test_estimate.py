"""What a plan said beforehand against what the start then did: images, requests, label files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.pipeline import calibration
from sam3lt_ray.pipeline.costs import Cost
from sam3lt_ray.pipeline.estimate import Estimate, EstimateOptions
from sam3lt_ray.pipeline.planning import plan_run
from sam3lt_ray.pipeline.run import label_run
from tests.asking import load_asked, read_notes
from tests.servers.moto_s3 import MotoS3
from tests.servers.s3_server import S3Bucket
from tests.standin import load_standin, plain_image, write_tar

pytestmark = pytest.mark.usefixtures("local_ray", "short_calibration")
OPTIONS = EstimateOptions(price_per_gpu_hour=2.0, calibrate=3)


@pytest.fixture
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_ENOUGH_S", 0.0)


def _put_shard(bucket: S3Bucket, folder: Path, name: str, count: int) -> None:
    write_tar(folder / name, [(f"{n:03d}.png", plain_image((n % 200, 90, 200), (40, 30))) for n in range(count)])
    bucket.put(f"shards/{name}", (folder / name).read_bytes())


def _config(bucket: S3Bucket, vocabulary: list[Any]) -> Config:
    return Config.model_validate(
        {
            "run": {"output": bucket.uri("run")},
            "input": {"format": "webdataset", "uri": bucket.uri("shards/"), "images_per_unit": 10},
            "vocabulary": vocabulary,
            "storage": {"endpoint_url": bucket.server.endpoint_url},
            "compute": {"device": "cpu", "actors": 1},
        }
    )


def _plan(config: Config, options: EstimateOptions = OPTIONS, load_engine: Any = load_standin) -> Estimate:
    estimate = plan_run(config, estimate=options, load_engine=load_engine).estimate
    assert estimate is not None
    return estimate


def _figures(cost: Cost) -> tuple[int, int]:
    return cost.images, cost.units


def test_a_start_makes_the_requests_and_files_that_were_planned(
    moto_bucket: S3Bucket, moto_s3: MotoS3, tmp_path: Path
) -> None:
    _put_shard(moto_bucket, tmp_path, "a.tar", 33)
    _put_shard(moto_bucket, tmp_path, "b.tar", 20)
    config = _config(moto_bucket, ["red circle", "star"])
    moto_s3.forget_requests()
    planned = _plan(config)
    assert not moto_s3.counts.keys() & {"PutObject", "DeleteObject"}, "a plan writes nothing"
    moto_s3.forget_requests()
    session = label_run(config, load_engine=load_standin).content["session"]
    made = [(one.kind, one.key.split("/")[0]) for one in moto_s3.requests]
    units = sum(one.kind == "PutObject" and one.key.startswith("run/labels/") for one in moto_s3.requests)
    cost = planned.remaining
    assert (cost.images, cost.units) == (session["images"]["total"], units) == (53, 6)
    assert (cost.requests.get, cost.requests.head) == (
        made.count(("GetObject", "shards")),
        made.count(("HeadObject", "shards")),
    )
    assert cost.requests.put == units
    assert cost.output_bytes == pytest.approx(session["bytes_written"], rel=0.1)

    done = _plan(config, EstimateOptions(images_per_s=1.0))
    assert _figures(done.remaining) == (0, 0)
    assert (done.remaining.wall_s, done.remaining.output_bytes) == (0.0, 0)
    assert _figures(done.whole) == (53, 6)
    assert done.whole.output_bytes == session["bytes_written"]
    assert done.output_from == "from units that are committed"


def test_what_is_missing_is_measured_with_its_own_prompts(moto_bucket: S3Bucket, tmp_path: Path) -> None:
    _put_shard(moto_bucket, tmp_path, "a.tar", 33)
    label_run(_config(moto_bucket, ["red circle", "star"]), load_engine=load_standin)
    _put_shard(moto_bucket, tmp_path, "b.tar", 20)
    (tmp_path / "notes").mkdir()
    planned = _plan(
        _config(moto_bucket, ["red circle", "star", "ring"]),
        load_engine=partial(load_asked, notes=tmp_path / "notes"),
    )
    assert _figures(planned.whole) == _figures(planned.remaining) == (53, 6)
    assert planned.whole.output_bytes is not None
    assert planned.remaining.output_bytes is not None
    assert planned.remaining.output_bytes < planned.whole.output_bytes
    assert planned.rate_from is not None
    assert "each of 2 sets of labels" in planned.rate_from
    asked = read_notes(tmp_path / "notes")
    by_prompt = {prompt: sum(n for (_, one), n in asked.items() if one == prompt) for _, prompt in asked}
    assert by_prompt["ring"] == 2 * by_prompt["star"] == 2 * by_prompt["red circle"]
