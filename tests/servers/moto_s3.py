"""moto's S3 with a fault layer, as tests see it: what was asked of it, and what shall go wrong next."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.servers.faults import CONTROL_PATH, Fault, RecordedRequest
from tests.servers.process import ServerProcess, free_ports
from tests.servers.s3_server import S3Server, credential_environment

REPOSITORY = Path(__file__).resolve().parents[2]


class MotoS3(S3Server):
    """An S3 server that counts and fails on demand.

    Faults are matched in the order they were ordered, each for its number of requests; then all is well again.
    """

    def __init__(self, endpoint_url: str) -> None:
        super().__init__(endpoint_url)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests since the start, or since :meth:`forget_requests`, in the order they were answered."""
        with self._opener.open(self.endpoint_url + CONTROL_PATH, timeout=30) as answer:
            return [RecordedRequest(**request) for request in json.load(answer)]

    @property
    def counts(self) -> Counter[str]:
        """Number of requests by kind ("GetObject", "PutObject", "HeadObject", "ListObjectsV2", ...)."""
        return Counter(request.kind for request in self.requests)

    @property
    def bytes_sent(self) -> int:
        """Bytes of all answers' bodies."""
        return sum(request.bytes_sent for request in self.requests)

    @property
    def bytes_received(self) -> int:
        """Bytes of all requests' bodies."""
        return sum(request.bytes_received for request in self.requests)

    def forget_requests(self) -> None:
        """Count from zero."""
        self._order(order="forget_requests")

    def fail_next(
        self,
        times: int = 1,
        *,
        status: int = 503,
        code: str = "SlowDown",
        message: str = "Spoiled on purpose.",
        kind: str = "",
        key_part: str = "",
    ) -> None:
        """Answer the next matching requests with an error, without doing the work."""
        self.spoil(Fault("status", times, kind, key_part, status, code, message))

    def refuse_next(self, times: int = 1, *, kind: str = "", key_part: str = "") -> None:
        """Close the connection of the next matching requests, without doing the work."""
        self.spoil(Fault("refuse", times, kind, key_part))

    def lose_answers(self, times: int = 1, *, kind: str = "", key_part: str = "") -> None:
        """Do the work of the next matching requests, then close the connection instead of answering."""
        self.spoil(Fault("lose_answer", times, kind, key_part))

    def cut_bodies(self, times: int = 1, *, kind: str = "GetObject", key_part: str = "") -> None:
        """Close the connection in the middle of the answer's body."""
        self.spoil(Fault("cut_body", times, kind, key_part))

    def delay_next(self, delay_s: float, times: int = 1, *, kind: str = "", key_part: str = "") -> None:
        """Wait before the work of the next matching requests."""
        self.spoil(Fault("delay", times, kind, key_part, delay_s=delay_s))

    def ignore_conditions(self, ignore: bool = True) -> None:
        """Behave like a server that does not know If-None-Match."""
        self._order(order="ignore_conditions", ignore=ignore)

    def clear_faults(self) -> None:
        """Drop the faults that were not used up."""
        self._order(order="clear_faults")

    def reset(self, seed: int = 1) -> None:
        """Forget buckets, faults and requests; ``seed`` decides which requests faults with a chance will spoil."""
        self._order(order="reset", seed=seed)

    def spoil(self, fault: Fault) -> None:
        """Order any fault; the methods above are short for the common ones."""
        self._order(order="fault", fault=asdict(fault))

    def _order(self, **order: Any) -> None:
        request = urllib.request.Request(self.endpoint_url + CONTROL_PATH, json.dumps(order).encode(), method="POST")
        with self._opener.open(request, timeout=30) as answer:
            answer.read()

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return self.requests is not None
        except OSError:
            return False


@contextmanager
def run_moto_s3(folder: Path) -> Iterator[MotoS3]:
    """A moto server on a free port of 127.0.0.1, with its log in ``folder``."""
    [port] = free_ports(1)
    environment = {**os.environ, **credential_environment(), "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.servers.moto_process", str(port)]
    process = ServerProcess(command, log=folder / "moto.log", cwd=REPOSITORY, env=environment)
    server = MotoS3(f"http://127.0.0.1:{port}")
    try:
        process.wait_until(server.is_ready)
        yield server
    finally:
        server.close()
        process.stop()
