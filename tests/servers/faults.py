"""A WSGI layer around an S3 server: it records every request, and spoils those it was told to spoil.

Runs inside the server's process; tests steer it over HTTP at ``/_control`` (no bucket can have that name), see
:class:`tests.servers.moto_s3.MotoS3`.
"""

from __future__ import annotations

import io
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import parse_qs

CONTROL_PATH = "/_control"

FaultAction = Literal[
    "status", "refuse", "lose_answer", "cut_body", "reset_body", "stall_body", "trickle", "short_body", "delay"
]
Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


@dataclass
class Fault:
    """What to do to the next ``times`` requests that match.

    Attributes:
        action: "status": answer an error without doing the work. "refuse": close the connection without doing the
            work. "lose_answer": do the work, then close the connection. "cut_body": send half of the answer's body.
            "reset_body": the same, and end with a TCP reset. "stall_body": the same, then silence for ``delay_s``, then
            the end. "trickle": the answer's body byte by byte, ten a second, for ``delay_s``. "short_body": a whole and
            consistent answer that holds half of what was asked for. "delay": wait, then go on.
        times: Number of requests.
        after: Matching requests that are served well before the first one is spoiled.
        chance: Share of the matching requests that are spoiled, drawn from a repeatable sequence.
        spreads: Once a request was spoiled, every request is, whatever it asks for.
        kind: Only this kind of request ("PutObject"); "" for any.
        key_part: Only keys that contain this.
        status: HTTP status of "status".
        code: S3 error code of "status".
        message: Text of the error.
        delay_s: Seconds of "delay", "stall_body" and "trickle".
    """

    action: FaultAction
    times: int = 1
    kind: str = ""
    key_part: str = ""
    status: int = 503
    code: str = "SlowDown"
    message: str = "Spoiled on purpose."
    delay_s: float = 0.0
    after: int = 0
    chance: float = 1.0
    spreads: bool = False


@dataclass(frozen=True)
class RecordedRequest:
    """One request as the server saw it.

    Attributes:
        kind: S3's name of the operation ("GetObject").
        bucket: Bucket, "" for the server itself.
        key: Key, "" for the bucket itself.
        byte_range: The Range header, "" without.
        condition: The If-None-Match header, "" without.
        status: HTTP status of the answer; 0 where the connection was closed instead.
        bytes_received: Length of the request's body.
        bytes_sent: Length of the answer's body.
        payer: The x-amz-request-payer header, "" without.
    """

    kind: str
    bucket: str
    key: str
    byte_range: str
    condition: str
    status: int
    bytes_received: int
    bytes_sent: int
    payer: str = ""


def operation_of(method: str, bucket: str, key: str, query: str) -> str:
    """S3's name for a request, as far as tests want to tell them apart; otherwise the HTTP method."""
    parameters = parse_qs(query, keep_blank_values=True)
    if key and "uploadId" in parameters:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}.get(
            method, method
        )
    if key:
        names = {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
        return "CreateMultipartUpload" if "uploads" in parameters else names.get(method, method)
    if bucket:
        if method == "GET":
            return "ListObjectsV2" if "list-type" in parameters else "ListObjects"
        if method == "POST" and "delete" in parameters:
            return "DeleteObjects"
        return {"PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}.get(method, method)
    return "ListBuckets" if method == "GET" else method


class FaultyServer:
    """The WSGI application: control requests to itself, all others through the faults to ``app``.

    Args:
        app: The S3 server.
        reset_app: Makes it forget everything.
    """

    def __init__(self, app: App, reset_app: Callable[[], None]) -> None:
        self._app = app
        self._reset_app = reset_app
        self._lock = threading.Lock()
        # moto checks If-None-Match and stores in two steps; a real server does it in one.
        self._write_lock = threading.Lock()
        self._faults: list[Fault] = []
        self._requests: list[RecordedRequest] = []
        self._ignores_conditions = False
        self._chances = random.Random(1)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # Arrow sends chunks, of which werkzeug makes a stream with an end, and no length.
        is_chunked = environ.get("wsgi.input_terminated", False)
        body = environ["wsgi.input"].read(-1 if is_chunked else int(environ.get("CONTENT_LENGTH") or 0))
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        path = environ["PATH_INFO"]
        if path.startswith(CONTROL_PATH):
            return self._control(environ["REQUEST_METHOD"], body, start_response)
        return self._serve(environ, body, start_response)

    def _control(self, method: str, body: bytes, start_response: StartResponse) -> Iterable[bytes]:
        answer: list[dict[str, Any]] = []
        with self._lock:
            if method == "GET":
                answer = [asdict(request) for request in self._requests]
            else:
                order = json.loads(body)
                if order["order"] == "fault":
                    self._faults.append(Fault(**order["fault"]))
                elif order["order"] == "ignore_conditions":
                    self._ignores_conditions = bool(order["ignore"])
                elif order["order"] == "forget_requests":
                    self._requests.clear()
                elif order["order"] == "clear_faults":
                    self._faults.clear()
                elif order["order"] == "reset":
                    self._faults.clear()
                    self._requests.clear()
                    self._ignores_conditions = False
                    self._chances.seed(order.get("seed", 1))
                    self._reset_app()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def _serve(self, environ: Environ, body: bytes, start_response: StartResponse) -> Iterable[bytes]:
        # WSGI hands over the unquoted path's UTF-8 bytes as latin-1 text.
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace").lstrip("/")
        bucket, _, key = path.partition("/")
        kind = operation_of(environ["REQUEST_METHOD"], bucket, key, environ.get("QUERY_STRING", ""))

        def record(status: int, bytes_sent: int) -> None:
            request = RecordedRequest(
                kind,
                bucket,
                key,
                environ.get("HTTP_RANGE", ""),
                environ.get("HTTP_IF_NONE_MATCH", ""),
                status,
                len(body),
                bytes_sent,
                environ.get("HTTP_X_AMZ_REQUEST_PAYER", ""),
            )
            with self._lock:
                self._requests.append(request)

        fault = self._take_fault(kind, key)
        if fault is not None and fault.action == "delay":
            time.sleep(fault.delay_s)
        if fault is not None and fault.action == "refuse":
            record(0, 0)
            _hang_up(environ)
        if fault is not None and fault.action == "status":
            answer = _error_body(fault)
            # As S3 does: no body for HEAD.
            sent = b"" if environ["REQUEST_METHOD"] == "HEAD" else answer
            record(fault.status, len(sent))
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(sent)))]
            start_response(f"{fault.status} Spoiled", headers)
            return [sent]

        status, headers, answer = self._ask(environ)
        if fault is not None and fault.action == "lose_answer":
            record(0, 0)
            _hang_up(environ)
        if fault is not None and fault.action in ("cut_body", "reset_body", "stall_body", "trickle"):
            record(int(status.split()[0]), len(answer) // 2)
            start_response(status, headers)
            return _part_of(answer, environ, fault)
        if fault is not None and fault.action == "short_body":
            headers, answer = _shortened(headers, answer)
        record(int(status.split()[0]), len(answer))
        start_response(status, headers)
        return [answer]

    def _take_fault(self, kind: str, key: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times <= 0 or fault.kind not in ("", kind) or fault.key_part not in key:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                elif self._chances.random() < fault.chance:
                    fault.times -= 1
                    if fault.spreads:
                        fault.times, fault.kind, fault.key_part = 1_000_000, "", ""
                    return fault
        return None

    def _ask(self, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
        """The server's own answer, whole."""
        seen: list[tuple[str, list[tuple[str, str]]]] = []

        def keep(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
            seen.append((status, headers))

        if self._ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        is_write = environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
        if is_write:
            self._write_lock.acquire()
        try:
            parts = self._app(environ, keep)
            try:
                answer = b"".join(parts)
            finally:
                close = getattr(parts, "close", None)
                if close is not None:
                    close()
        finally:
            if is_write:
                self._write_lock.release()
        status, headers = seen[-1]
        return status, headers, answer


def _error_body(fault: Fault) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message><RequestId>spoiled</RequestId></Error>"
    ).encode()


def _part_of(answer: bytes, environ: Environ, fault: Fault) -> Iterator[bytes]:
    if fault.action == "trickle":
        for position in range(int(10 * fault.delay_s)):
            yield answer[position : position + 1]
            time.sleep(0.1)
        _hang_up(environ)
    yield answer[: len(answer) // 2]
    if fault.action == "stall_body":
        time.sleep(fault.delay_s)
    _hang_up(environ, reset=fault.action == "reset_body")


def _shortened(headers: list[tuple[str, str]], answer: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Half of an answer whose headers say that this is all there is to come."""
    half = answer[: len(answer) // 2]
    changed = []
    for name, value in headers:
        if name.lower() == "content-length":
            value = str(len(half))
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", value) if name.lower() == "content-range" else None
        if match is not None:
            value = f"bytes {match[1]}-{int(match[1]) + len(half) - 1}/{match[2]}"
        # A checksum of the whole would give the game away; not every server sends one.
        if not name.lower().startswith("x-amz-checksum"):
            changed.append((name, value))
    return changed, half


def _hang_up(environ: Environ, *, reset: bool = False) -> None:
    connection: socket.socket = environ["werkzeug.socket"]
    if reset:  # with a linger of no time at all, closing sends RST instead of FIN
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    else:
        connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("hung up on purpose")
