"""Two nodes without GPUs beside one with a GPU: both of the two read, the third labels and does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage.store import open_store
from tests.job_cluster import ROOT, started_head, worker_address
from tests.place import Place
from tests.run_checks import assert_exact
from tests.standin import plain_image, write_tar

# One read task each, and Ray draws a node for each of them: that it draws the same one every time is out of question.
SHARDS = 32
CPU_NODES, GPU_NODE = (worker_address(0), worker_address(1)), worker_address(2)


def test_reading_is_spread_over_the_nodes_without_gpus(tmp_path: Path) -> None:
    for number in range(SHARDS):
        write_tar(tmp_path / "shards" / f"{number}.tar", [("a.png", plain_image((number, 80, 90), (44, 31)))])
    run = tmp_path / "run"
    config = {
        "run": {"output": str(run)},
        "input": {"format": "webdataset", "uri": str(tmp_path / "shards")},
        "vocabulary": ["red circle"],
        "compute": {"device": "cuda", "precision": "fp32"},
    }
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(config))
    with tempfile.TemporaryDirectory(prefix="read-") as short, ExitStack() as stack:
        cluster = stack.enter_context(started_head(Path(short), {}))
        for address in CPU_NODES:
            stack.enter_context(cluster.started_worker(address, "--num-cpus=2", place=Place(address)))
        gpu = "--num-cpus=2", "--num-gpus=1"
        stack.enter_context(cluster.started_worker(GPU_NODE, *gpu, place=Place(GPU_NODE)))
        done = subprocess.run(
            [sys.executable, "-m", "tests.label_with_standin", str(config_file)],
            cwd=ROOT,
            env={**cluster.environment, "RAY_ADDRESS": cluster.ray_address},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert_exact(open_store(str(run), StorageSettings()), {f"{number}.tar": 1 for number in range(SHARDS)})
    nodes = json.loads((run / "run_summary.json").read_text())["session"]["nodes"]
    assert {address for address, did in nodes.items() if did["units_read"]} == set(CPU_NODES)
    assert {address: did["units_labeled"] for address, did in nodes.items() if did["units_labeled"]} == {
        GPU_NODE: SHARDS
    }
