"""A cluster without GPUs when the run starts, as one with an autoscaler is: the run waits and begins with the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage.store import open_store
from tests.job_cluster import ROOT, started_node
from tests.run_checks import assert_exact
from tests.servers.process import free_ports
from tests.standin import plain_image, write_tar


def test_a_run_asks_for_gpus_and_begins_with_the_first(tmp_path: Path) -> None:
    shards = {"a.tar": 23, "b.tar": 9}
    for name, count in shards.items():
        write_tar(
            tmp_path / "shards" / name, [(f"{i:03d}.png", plain_image((i, 2 * i, 90), (44, 31))) for i in range(count)]
        )
    run = tmp_path / "run"
    config = {
        "run": {"output": str(run)},
        "input": {"format": "webdataset", "uri": str(tmp_path / "shards"), "images_per_unit": 5},
        "vocabulary": ["red circle", "star"],
        "compute": {"device": "cuda", "actors": 3, "cpus_per_actor": 1.0, "precision": "fp32"},
    }
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.label_with_standin", str(config_file), "--seconds-per-image", "0.01"]
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    environment = {**os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    head = ["--head", f"--port={port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"]
    with tempfile.TemporaryDirectory(prefix="grow-") as short:
        folder = Path(short)
        with started_node(folder, "head", {}, *head, f"--temp-dir={folder}/ray"):
            log = folder / "head" / "log"
            _wait_for(lambda: "Ray runtime started" in log.read_text(), None)
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as driver:
                _wait_for(lambda: any((run / "pass").glob("*.json")), driver)  # it has planned, and waits
                with started_node(folder, "gpu", {}, f"--address={address}", "--num-cpus=2", "--num-gpus=1"):
                    _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors.decode()
    assert_exact(open_store(str(run), StorageSettings()), shards)
    session = json.loads((run / "run_summary.json").read_text())["session"]
    # Three were asked for; those that never came were not idle.
    assert (session["device"], session["actors"]) == ("cuda", 1)


def _wait_for(condition: object, driver: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        assert driver is None or driver.poll() is None, driver.communicate()
        time.sleep(0.1)
