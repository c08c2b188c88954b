"""A cluster that takes jobs: a head with its job server, and workers, each of them ``ray start`` in its own processes.

Needs ``ray[default]``. Every node runs in a session of its own, so that all of it can be ended by its group.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.place import HERE, Place
from tests.servers.process import free_ports

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
        folder: Where its nodes have their logs.
    """

    jobs_url: str
    ray_address: str
    environment: Mapping[str, str]
    folder: Path

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
        found: dict[str, Any] = json.loads(_get(f"{self.jobs_url}/api/jobs/{job_id}", self.environment))
        return found

    @contextmanager
    def started_worker(self, name: str, *options: str, place: Place = HERE) -> Iterator[None]:
        """Another node, which has joined when this yields.

        Nodes that start at one moment in one session take each other's sockets; so they come one by one.
        """
        before, options = _nodes(self), (f"--address={self.ray_address}", *options)
        with ExitStack() as stack:
            process = stack.enter_context(started_node(self.folder, name, self.environment, *options, place=place))
            self.wait_until(lambda: _nodes(self) > before or process.poll() is not None, name)
            if process.poll() is not None:
                # Ray gives up when 30 s were not enough, which was seen once in hundreds of starts.
                stack.close()
                name = f"{name}-again"
                stack.enter_context(started_node(self.folder, name, self.environment, *options, place=place))
                self.wait_until(lambda: _nodes(self) > before, name)
            yield

    def wait_until(self, condition: Callable[[], bool], name: str) -> None:
        """Wait for what a node should bring about."""
        deadline = time.monotonic() + _START_S
        while not condition():
            assert time.monotonic() < deadline, (self.folder / name / "log").read_text()
            time.sleep(0.2)

    def _ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, "RAY_ADDRESS": self.jobs_url}
        return subprocess.run(
            [*RAY, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
        )


@contextmanager
def running_job_cluster(
    folder: Path, *, worker_cpus: tuple[int, ...], environment: Mapping[str, str], stranger_to: Path | None = None
) -> Iterator[JobCluster]:
    """Start a head without work and workers; stop all of them.

    Args:
        folder: Everything of Ray goes below it. Short: sockets have long names.
        worker_cpus: Logical CPUs of each worker.
        environment: On top of this process's own, for Ray and so for jobs and workers.
        stranger_to: A folder of which the last worker sees nothing, nor of the cluster's: neither what is sent with a
            job nor what a driver writes.

    Every worker has an address of its own, :func:`worker_address`.
    """
    with ExitStack() as stack:
        cluster = stack.enter_context(started_head(folder, environment))
        for number, cpus in enumerate(worker_cpus):
            is_last = number + 1 == len(worker_cpus)
            here = Place(worker_address(number))
            place = here if stranger_to is None or not is_last else here.without(folder, stranger_to)
            stack.enter_context(cluster.started_worker(f"worker-{number}", f"--num-cpus={cpus}", place=place))
        yield cluster


def worker_address(number: int) -> str:
    """Where the worker of this number is, counted from 0: all of 127.0.0.0/8 is this machine."""
    return f"127.0.0.{2 + number}"


@contextmanager
def started_head(folder: Path, environment: Mapping[str, str], place: Place = HERE) -> Iterator[JobCluster]:
    """A head without work, which knows where jobs are taken.

    Args:
        folder: Everything of Ray goes below it.
        environment: On top of this process's own.
        place: Where it runs.
    """
    port, dashboard, client = free_ports(3)
    whole = {**os.environ, **_OF_RAY, **environment}
    options = ["--head", f"--port={port}", f"--dashboard-host={place.address}", f"--dashboard-port={dashboard}"]
    options += [f"--ray-client-server-port={client}", "--num-cpus=0", f"--temp-dir={folder}/ray"]
    with started_node(folder, "head", whole, *options, place=place):
        cluster = JobCluster(f"http://{place.address}:{dashboard}", f"{place.address}:{port}", whole, folder)
        # Until it lists itself, too: a worker has joined when there is a node more than before.
        cluster.wait_until(lambda: _answers(cluster) and _nodes(cluster) == 1, "head")
        yield cluster


@contextmanager
def started_node(
    folder: Path, name: str, environment: Mapping[str, str], *options: str, place: Place = HERE
) -> Iterator[subprocess.Popen[bytes]]:
    """One ``ray start``, in a folder of its own below this one.

    Args:
        folder: Of the cluster.
        name: Of the node's folder, where its log is.
        environment: On top of this process's own.
        options: For ``ray start``.
        place: Where it runs.
    """
    place_of_node = folder / name
    place_of_node.mkdir()
    environment = {**os.environ, **_OF_RAY, **environment}
    command = [*place.launcher, *RAY, "start", "--block", f"--node-ip-address={place.address}"]
    command += ["--dashboard-agent-listen-port=0", "--disable-usage-stats", _OBJECT_STORE, *options]
    with (
        (place_of_node / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=place_of_node, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            # Ray's own way to stop takes many seconds, for a cluster that nobody uses any more.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _answers(cluster: JobCluster) -> bool:
    try:
        return bool(_get(f"{cluster.jobs_url}/api/jobs/", cluster.environment))
    except OSError:
        return False


def _nodes(cluster: JobCluster) -> int:
    try:
        nodes = json.loads(_get(f"{cluster.jobs_url}/nodes?view=summary", cluster.environment))
    except OSError:
        return 0
    return sum(1 for node in nodes["data"]["summary"] if node["raylet"]["state"] == "ALIVE")


def _get(url: str, environment: Mapping[str, str]) -> bytes:
    """What a cluster answers, which may want a token."""
    request = urllib.request.Request(url)
    if environment.get("RAY_AUTH_MODE") == "token":
        request.add_header("Authorization", f"Bearer {environment['RAY_AUTH_TOKEN']}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: bytes = answer.read()
    return found
