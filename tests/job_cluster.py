"""A cluster that takes jobs: a head with its job server, and workers, each of them ``ray start`` in its own processes.

Needs ``ray[default]``. Every node runs in a session of its own, so that all of it can be ended by its group.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RAY = (sys.executable, "-m", "ray.scripts.scripts")
_START_S = 60.0
_OF_RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(ROOT),
    # Until a job that is told to stop is killed: time to say so in the run directory.
    "RAY_JOB_STOP_WAIT_TIME_S": "20",
}
_OBJECT_STORE = "--object-store-memory=120000000"


@dataclass(frozen=True)
class JobCluster:
    """Where the cluster is.

    Attributes:
        jobs_url: What ``ray job submit`` takes as RAY_ADDRESS.
        ray_address: What ``ray.init`` takes.
        environment: Of whoever talks to it.
    """

    jobs_url: str
    ray_address: str
    environment: Mapping[str, str]

    def submit(
        self, working_dir: Path, *entrypoint: str, job_id: str, wait: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """``ray job submit``, as a person types it."""
        options = ["--working-dir", str(working_dir), "--submission-id", job_id, *([] if wait else ["--no-wait"])]
        return self._ray("job", "submit", *options, "--", *entrypoint)

    def stop(self, job_id: str) -> None:
        """``ray job stop``; returns when the job has stopped."""
        done = self._ray("job", "stop", job_id)
        assert done.returncode == 0, done.stdout + done.stderr

    def info(self, job_id: str) -> dict[str, Any]:
        """Status and message of a job."""
        with urllib.request.urlopen(f"{self.jobs_url}/api/jobs/{job_id}", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, "RAY_ADDRESS": self.jobs_url}
        return subprocess.run(
            [*RAY, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
        )


@contextmanager
def running_job_cluster(
    folder: Path, *, worker_cpus: tuple[int, ...], environment: Mapping[str, str]
) -> Iterator[JobCluster]:
    """Start a head without work and workers; stop all of them.

    Args:
        folder: Everything of Ray goes below it. Short: sockets have long names.
        worker_cpus: Logical CPUs of each worker.
        environment: On top of this process's own, for Ray and so for jobs and workers.
    """
    port, dashboard, client = free_ports(3)
    whole = {**os.environ, **_OF_RAY, **environment}
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        stack.enter_context(started_node(folder, "head", whole, *head, "--num-cpus=0", f"--temp-dir={folder}/ray"))
        cluster = JobCluster(f"http://127.0.0.1:{dashboard}", address, whole)
        _wait_until(lambda: _answers(f"{cluster.jobs_url}/api/jobs/"), folder)
        for number, cpus in enumerate(worker_cpus):
            # A folder of its own: it has nothing of the driver's but what Ray brings.
            stack.enter_context(
                started_node(folder, f"worker-{number}", whole, f"--address={address}", f"--num-cpus={cpus}")
            )
        yield cluster


@contextmanager
def started_node(folder: Path, name: str, environment: Mapping[str, str], *options: str) -> Iterator[None]:
    """One ``ray start``, in a folder of its own below this one.

    Args:
        folder: Of the cluster.
        name: Of the node's folder, where its log is.
        environment: On top of this process's own.
        options: For ``ray start``.
    """
    place = folder / name
    place.mkdir()
    environment = {**os.environ, **_OF_RAY, **environment}
    command = [*RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0"]
    command += ["--disable-usage-stats", _OBJECT_STORE, *options]
    with (
        (place / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield
        finally:
            # Ray's own way to stop takes many seconds, for a cluster that nobody uses any more.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait_until(condition: Any, folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        assert time.monotonic() < deadline, (folder / "head" / "log").read_text()
        time.sleep(0.2)
