"""``python -m tests.ray_cluster NUM_CPUS``: a one-node Ray cluster that outlives its drivers and ends with stdin."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def running_cluster(num_cpus: int = 2) -> Iterator[str]:
    """Start it in a process of its own; yields the address for RAY_ADDRESS.

    A process of its own, because Ray's cluster helper leaves open files behind, and here warnings are errors.
    """
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.ray_cluster", str(num_cpus)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        marked = (line for line in process.stdout if line.startswith(b"address="))
        try:
            yield next(marked).decode().strip().removeprefix("address=")
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def main() -> None:
    """Start, say where, and wait."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": int(sys.argv[1]), "object_store_memory": 300_000_000, "include_dashboard": False},
    )
    try:
        print(f"address={cluster.address}", flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
