"""``python -m tests.ray_cluster NUM_CPUS``: Ray with real raylets, which outlives its drivers and ends with stdin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_OBJECT_STORE_BYTES = 300_000_000
_MARK = "answer="


class RunningCluster:
    """A cluster in processes of its own; its nodes can be added and killed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        head = self._answer()
        self.address: str = head["address"]
        self.head_pids: list[int] = head["pids"]
        self._logs = Path(head["session"]) / "logs"

    def add_node(self, num_cpus: int) -> list[int]:
        """Add a node; returns the pids of its raylet and what belongs to it."""
        pids: list[int] = self._ask(f"node {num_cpus}")["pids"]
        return pids

    def restart_gcs(self, after_s: float) -> None:
        """Kill the gcs and start it again; it must keep its state somewhere, or nobody knows it any more."""
        self._ask(f"gcs {after_s}")

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        return [self._process.pid, *descendants(self._process.pid)]

    def worker_pids(self, title: str) -> list[int]:
        """Workers of this cluster whose process title contains something, such as the name of a task."""
        return [pid for pid in descendants(self._process.pid) if title in process_title(pid)]

    def workers_of(self, node: list[int], title: str) -> list[int]:
        """Those of them that are on one node."""
        return [below for pid in node for below in descendants(pid) if title in process_title(below)]

    def log_lines(self, text: str) -> list[str]:
        """What its raylets wrote down that contains something."""
        files = self._logs.glob("raylet*.out")
        return [line for file in files for line in file.read_text(errors="replace").splitlines() if text in line]

    def _ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n".encode())
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK.encode()):
                answer: dict[str, Any] = json.loads(line.decode().removeprefix(_MARK))
                return answer
        raise RuntimeError("the test's Ray cluster has ended")


@contextmanager
def running_cluster(num_cpus: int = 2, settings: Mapping[str, str] | None = None) -> Iterator[RunningCluster]:
    """Start one with a single node; :attr:`RunningCluster.address` is for RAY_ADDRESS, ``settings`` its own RAY_...

    A process of its own, because Ray's cluster helper leaves open files behind, and here warnings are errors.
    """
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), **(settings or {})}
    command = [sys.executable, "-m", "tests.ray_cluster", str(num_cpus)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        try:
            yield RunningCluster(process)
        finally:
            leftovers = descendants(process.pid)
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            kill(process.pid, *leftovers)


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those they have started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def process_title(pid: int) -> str:
    """Its command line, which Ray's workers change to what they are doing; "" when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def kill(*pids: int) -> None:
    """SIGKILL to processes that may be gone already."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_node(pids: list[int]) -> None:
    """What a node that loses its power looks like: all its processes at once."""
    everything = [*pids, *(below for pid in pids for below in descendants(pid))]
    kill(*everything)
    deadline = time.monotonic() + 20
    while any(process_title(pid) for pid in everything) and time.monotonic() < deadline:
        time.sleep(0.05)


def main() -> None:
    """Start, say where, do what comes in line by line, and wait."""
    from ray.cluster_utils import Cluster

    limits = {"object_store_memory": _OBJECT_STORE_BYTES}
    head = {**limits, "num_cpus": int(sys.argv[1]), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        session = cluster.head_node.get_session_dir_path()
        _tell(address=cluster.address, pids=_pids(cluster.head_node), session=session)
        for line in sys.stdin:
            what, number = line.split()
            if what == "node":
                _tell(pids=_pids(cluster.add_node(num_cpus=int(number), **limits)))
            else:
                cluster.head_node.kill_gcs_server()
                time.sleep(float(number))
                cluster.head_node.start_gcs_server()
                _tell()
    finally:
        with suppress(Exception):  # what was killed cannot be shut down
            cluster.shutdown()


def _tell(**answer: Any) -> None:
    print(_MARK + json.dumps(answer), flush=True)


def _pids(node: Any) -> list[int]:
    return [info.process.pid for infos in node.all_processes.values() for info in infos]


if __name__ == "__main__":
    main()
