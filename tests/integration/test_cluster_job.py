"""``ray job submit`` to a head without work and two workers, with the demo checkpoint and results on S3.

The cluster wants a token of everybody, as infra/ sets it up, and the second worker sees nothing of the driver's disk.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage.store import open_store
from tests.job_cluster import ROOT, JobCluster, running_job_cluster, worker_address
from tests.run_checks import assert_exact
from tests.servers.s3_server import S3Bucket, S3Server, credential_environment
from tests.standin import plain_image, write_tar

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SAM3LT_TEST_CLUSTER" not in os.environ, reason="takes minutes: make test-cluster"),
]
SHARDS = {"a.tar": 40, "b.tar": 24}
PYTHON = sys.executable
JOBS = ROOT / "jobs"
LABEL = (PYTHON, str(JOBS / "label.py"), "-c", "job.yaml")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-this-test"}
STRANGER = worker_address(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCluster]:
    # Not pytest's folder: the names of Ray's sockets would be too long.
    with (
        tempfile.TemporaryDirectory(prefix="jobs-") as folder,
        running_job_cluster(
            Path(folder),
            worker_cpus=(2, 2),
            environment={**credential_environment(), **TOKEN},
            stranger_to=tmp_path_factory.getbasetemp(),
        ) as found,
    ):
        yield found


@pytest.fixture
def bucket(seaweed: S3Server, s3_credentials: None, tmp_path: Path) -> S3Bucket:
    bucket = seaweed.new_bucket()
    for name, count in SHARDS.items():
        path = tmp_path / "tars" / name
        write_tar(path, [(f"{name[0]}-{i:03d}.png", plain_image((4 * i, 90, 40), (44, 31))) for i in range(count)])
        bucket.put(f"shards/{name}", path.read_bytes())
    return bucket


@pytest.fixture
def working_dir(bucket: S3Bucket, tmp_path: Path) -> Path:
    """What is sent along with the job: a config and nothing else."""
    config = {
        "run": {"output": bucket.uri("runs/one")},
        "input": {"format": "webdataset", "uri": bucket.uri("shards/"), "images_per_unit": 8},
        "model": {"checkpoint": "demo"},
        "vocabulary": "demo",
        "compute": {"device": "cpu", "actors": 2, "cpus_per_actor": 1.0},
        "storage": {"endpoint_url": bucket.server.endpoint_url},
        "errors": {"max_error_fraction": 0.0},
    }
    folder = tmp_path / "sent"
    folder.mkdir()
    (folder / "job.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def summary_of(bucket: S3Bucket) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bucket.get("runs/one/run_summary.json"))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def units_of(bucket: S3Bucket) -> list[str]:
    return [key for key in bucket.keys("runs/one/labels/") if key.endswith(".parquet")]


def test_plan_a_first_look_a_stop_and_the_rest(cluster: JobCluster, bucket: S3Bucket, working_dir: Path) -> None:
    plan = cluster.submit(working_dir, PYTHON, "-m", "sam3lt_ray", "plan", "-c", "job.yaml", job_id="plan")
    assert plan.returncode == 0, plan.stdout
    assert "2: 0 done" in plan.stdout
    assert units_of(bucket) == []

    look = cluster.submit(working_dir, *LABEL, "--limit", "10", job_id="look")
    assert look.returncode == 0, look.stdout
    assert summary_of(bucket)["status"] == "limited"
    looked_at = set(units_of(bucket))
    assert 2 <= len(looked_at) < 8

    started = cluster.submit(working_dir, *LABEL, job_id="stopped", wait=False)
    assert started.returncode == 0, started.stdout
    wait_until(lambda: len(units_of(bucket)) > len(looked_at))
    cluster.stop("stopped")
    assert cluster.info("stopped")["status"] == "STOPPED"
    # Ray knows no exit code of a job that was told to stop; the run does.
    stopped = summary_of(bucket)
    assert (stopped["status"], stopped["exit_code"]) == ("interrupted", 75)
    before = set(units_of(bucket))

    rest = cluster.submit(working_dir, *LABEL, job_id="rest")
    assert rest.returncode == 0, rest.stdout
    assert cluster.info("rest")["status"] == "SUCCEEDED"
    assert_exact(open_store(bucket.uri("runs/one"), StorageSettings(endpoint_url=bucket.server.endpoint_url)), SHARDS)
    summary = summary_of(bucket)
    assert (summary["status"], summary["session"]["units"]) == ("done", 8 - len(before))
    assert before <= set(units_of(bucket))
    assert summary["session"]["nodes"][STRANGER]["units_labeled"] > 0

    use_results(cluster, bucket, working_dir)


def use_results(cluster: JobCluster, bucket: S3Bucket, working_dir: Path) -> None:
    """The jobs that come after."""

    def submit(job: str, *arguments: str) -> str:
        command = (PYTHON, str(JOBS / f"{job}.py"), *arguments, "-c", "job.yaml")
        done = cluster.submit(working_dir, *command, job_id=job)
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert " in 64 images" in submit("export", "coco", "--score-threshold", "0")
    exported = json.loads(bucket.get("runs/one/exports/coco/instances.json"))
    box = {
        "id": 1,
        "image_id": exported["images"][0]["id"],
        "category_id": exported["categories"][0]["id"],
        "iscrowd": 0,
    }
    truth = {
        **exported,
        "annotations": [{**box, "segmentation": [[0, 0, 9, 0, 9, 9]], "bbox": [0, 0, 9, 9], "area": 40}],
    }
    (working_dir / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    assert "64 images" in submit("evaluate", "--ground-truth", "truth.json")
    submit("report")
    assert b"<html" in bucket.get("runs/one/report/index.html")


def test_a_job_with_another_token_is_refused(cluster: JobCluster, working_dir: Path) -> None:
    stranger = replace(cluster, environment={**cluster.environment, "RAY_AUTH_TOKEN": "another"})
    refused = stranger.submit(working_dir, *LABEL, job_id="refused")
    assert refused.returncode != 0
    assert "token" in refused.stdout + refused.stderr
    with pytest.raises(HTTPError, match="404"):
        cluster.info("refused")


def test_a_failure_is_a_failed_job_with_our_exit_code(
    cluster: JobCluster, bucket: S3Bucket, working_dir: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "tars" / "broken.tar"
    write_tar(broken, [("000.png", b"not an image"), ("001.png", plain_image((1, 2, 3), (44, 31)))])
    bucket.put("shards/broken.tar", broken.read_bytes())
    failed = cluster.submit(working_dir, *LABEL, job_id="failed")
    assert failed.returncode == 1
    info = cluster.info("failed")
    assert (info["status"], info["driver_exit_code"]) == ("FAILED", 3)
    # The words that jobs/start_rayjob.py reads the exit code from.
    assert "failed with exit code 3" in info["message"]
    summary = summary_of(bucket)
    assert (summary["status"], summary["exit_code"], summary["errors"]) == ("over_error_budget", 3, {"not_an_image": 1})
