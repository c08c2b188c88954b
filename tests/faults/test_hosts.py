"""A run across hosts with addresses and disks of their own: one joins late, one is cut off and never comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from sam3lt_ray.storage.store import open_store
from tests.faults.conftest import AddFaultRow
from tests.faults.scenario import Scenario, numbered_images
from tests.hosts import Host, network_of_hosts
from tests.job_cluster import ROOT, started_head
from tests.run_checks import all_rows
from tests.servers.s3_server import S3Bucket, credential_environment
from tests.servers.seaweed import run_seaweed
from tests.standin import HoldPoint

SECONDS_PER_IMAGE = 0.05
ACTOR = "MapWorker(MapBatches(SegmentActor))"
# How soon Ray gives up a host that says nothing; a minute by default.
IMPATIENCE = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_host_that_is_cut_off_and_one_that_joins(
    tmp_path: Path, s3_credentials: None, fault_row: AddFaultRow
) -> None:
    shards = {f"{number}.tar": numbered_images(104, number) for number in range(3)}
    local = Scenario(tmp_path / "local", shards)
    # Not pytest's folder: the names of Ray's sockets would be too long.
    with (
        tempfile.TemporaryDirectory(prefix="hosts-") as short,
        network_of_hosts(("head", "cpu", "a", "b", "late")) as hosts,
        ExitStack() as stack,
    ):
        head, cpu, stays, leaves, late = hosts
        server = stack.enter_context(run_seaweed(tmp_path / "store", head.place))
        bucket = server.new_bucket()
        for path in local.shards.iterdir():
            bucket.put(f"shards/{path.name}", path.read_bytes())

        addresses = ",".join(host.address for host in hosts)
        environment = {**credential_environment(), "NO_PROXY": addresses, "no_proxy": addresses, **IMPATIENCE}
        cluster = stack.enter_context(started_head(Path(short), environment, head.place))

        def join(name: str, host: Host, *options: str) -> None:
            # Nothing of the driver's disk is there.
            place = host.place.without(Path(short), tmp_path)
            stack.enter_context(cluster.started_worker(name, *options, place=place))

        join("cpu", cpu, "--num-cpus=4")
        join("a", stays, "--num-cpus=2", "--num-gpus=1")
        join("b", leaves, "--num-cpus=2", "--num-gpus=1")
        config = _write_config(local, bucket, tmp_path / "config.json")
        command = [*head.place.launcher, sys.executable, "-m", "tests.label_with_standin", str(config)]
        # The one place that all of them see.
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        hold, labeled = HoldPoint(shared / "hold"), shared / "labeled"
        command += ["--seconds-per-image", f"{SECONDS_PER_IMAGE}", "--labeled", str(labeled)]
        command += ["--hold", str(shared / "hold")]
        environment = {**cluster.environment, "RAY_ADDRESS": cluster.ray_address}
        log = stack.enter_context((tmp_path / "driver.log").open("w+"))
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT) as driver:
            try:
                held = [_hold(driver, hold, host) for host in (stays, leaves)]
                join("late", late, "--num-cpus=2", "--num-gpus=1")
                units = len(bucket.keys("run/labels/"))
                # What is committed from here on, beyond what was under way, is labeled by the host that came late.
                _wait(driver, lambda: len(bucket.keys("run/labels/")) >= units + 6)
                leaves.cut_off()
                cut_at_s = time.monotonic()
                hold.release(held[0])
                driver.wait(240)
            finally:
                driver.kill()
        said = (tmp_path / "driver.log").read_text()
        assert driver.returncode == 0, said
        took_s = time.monotonic() - cut_at_s
        storage = bucket.storage()
        store = open_store(bucket.uri("run"), storage)
        rows = all_rows(store)
        assert rows == local.reference()
        twice = labeled.stat().st_size - sum(1 for row in rows if row["status"] == "ok")
        summary = json.loads(store.read("run_summary.json"))
    assert f"Ray has lost the node at {leaves.address}" in said
    nodes = summary["session"]["nodes"]
    assert {address for address, did in nodes.items() if did["units_read"]} == {cpu.address}
    labels = {address: did["units_labeled"] for address, did in nodes.items() if did["units_labeled"]}
    assert labels.keys() >= {stays.address, late.address}
    note = f"one start, done {took_s:.0f} s after the cut; Ray was told to give up after 12 s instead of a minute"
    where = "one of three hosts that label, one of which had joined late"
    fault_row("host cut off for good (link down)", where, 1, twice, note)


def _write_config(local: Scenario, bucket: S3Bucket, path: Path) -> Path:
    content = json.loads(local.config_file.read_text())
    content["run"] = {"output": bucket.uri("run")}
    content["input"] |= {"uri": bucket.uri("shards/")}
    content["compute"] = {"device": "cuda", "precision": "fp32", "max_passes": 6}
    content["storage"] = {"endpoint_url": bucket.server.endpoint_url}
    path.write_text(json.dumps(content))
    return path


def _hold(driver: subprocess.Popen[bytes], hold: HoldPoint, host: Host) -> int:
    """Hold the actor of a host in the middle of a unit, so that the run cannot end."""
    _wait(driver, lambda: bool(host.pids(ACTOR)))
    (pid,) = host.pids(ACTOR)
    hold.ask(pid)
    _wait(driver, lambda: hold.is_held(pid))
    return pid


def _wait(driver: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while driver.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
