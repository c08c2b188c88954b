"""Two nodes without GPUs beside one with GPUs: both of the two read, the third labels and does nothing else."""

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
from tests.servers.moto_s3 import MotoS3
from tests.standin import plain_image, write_tar

# Three actors read six shards at once, which a node with one CPU has no room for: both must. Fewer that read stay where
# chance has put the first ones, because Ray gives the next task to the worker that has just done one.
GPUS, SHARDS, SECONDS_PER_READ = 3, 20, 1.0
CPU_NODES, GPU_NODE = (worker_address(0), worker_address(1)), worker_address(2)


def test_reading_is_spread_over_the_nodes_without_gpus(moto_s3: MotoS3, tmp_path: Path) -> None:
    bucket = moto_s3.new_bucket()
    for number in range(SHARDS):
        write_tar(tmp_path / "shard.tar", [("a.png", plain_image((number, 80, 90), (44, 31)))])
        bucket.put(f"{number}.tar", (tmp_path / "shard.tar").read_bytes())
    moto_s3.delay_next(SECONDS_PER_READ, 1000, kind="GetObject")
    run = tmp_path / "run"
    config = {
        "run": {"output": str(run)},
        "input": {"format": "webdataset", "uri": bucket.uri()},
        "vocabulary": ["red circle"],
        "compute": {"device": "cuda", "precision": "fp32"},
        "storage": {"endpoint_url": moto_s3.endpoint_url},
    }
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(config))
    with tempfile.TemporaryDirectory(prefix="read-") as short, ExitStack() as stack:
        cluster = stack.enter_context(started_head(Path(short), {}))
        for address in CPU_NODES:
            stack.enter_context(cluster.started_worker(address, "--num-cpus=1", place=Place(address)))
        gpu = "--num-cpus=6", f"--num-gpus={GPUS}"
        stack.enter_context(cluster.started_worker(GPU_NODE, *gpu, place=Place(GPU_NODE)))
        done = subprocess.run(
            [sys.executable, "-m", "tests.label_with_standin", str(config_file)],
            cwd=ROOT,
            env={**cluster.environment, "RAY_ADDRESS": cluster.ray_address},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert_exact(open_store(str(run), StorageSettings()), {f"{number}.tar": 1 for number in range(SHARDS)})
    nodes = json.loads((run / "run_summary.json").read_text())["session"]["nodes"]
    assert {address for address, did in nodes.items() if did["units_read"]} == set(CPU_NODES)
    assert {address: did["units_labeled"] for address, did in nodes.items() if did["units_labeled"]} == {
        GPU_NODE: SHARDS
    }
