"""A machine with one CPU: the actor must leave room for the tasks that read and commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage.store import open_store
from tests.ray_cluster import running_cluster
from tests.run_checks import assert_exact
from tests.standin import plain_image, write_tar

ROOT = Path(__file__).parents[2]


def test_a_run_on_one_cpu_comes_to_its_end(tmp_path: Path) -> None:
    shards = {"a.tar": 23, "b.tar": 9}
    for name, count in shards.items():
        write_tar(
            tmp_path / "shards" / name, [(f"{i:03d}.png", plain_image((i, 2 * i, 90), (44, 31))) for i in range(count)]
        )
    config = {
        "run": {"output": str(tmp_path / "run")},
        "input": {"format": "webdataset", "uri": str(tmp_path / "shards"), "images_per_unit": 5},
        "vocabulary": ["red circle", "star"],
    }
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.label_with_standin", str(config_file)]
    with running_cluster(num_cpus=1) as cluster:
        environment = {
            **os.environ,
            "RAY_ADDRESS": cluster.address,
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert_exact(open_store(str(tmp_path / "run"), StorageSettings()), shards)
