"""An S3 bucket of a million keys that nobody stored: listings are made up page by page, small objects are kept.

``python -m tests.servers.vast_s3 PORT JSON`` serves it; :func:`run_vast_s3` starts it as a process of its own.

The bucket holds an input, ``shards/0000000.tar`` and so on, all with the same bytes, and a run directory ``run/`` in
which the first ``finished`` of them have their unit files, which cannot be read. Listings come in pages of 1,000 keys
as S3 gives them, PUT honours If-None-Match, every request is counted, and answers may be made to take their time.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import urllib.request
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.totals import RunTotals
from sam3lt_ray.storage.ledger import parse_unit_path, shard_directory
from sam3lt_ray.storage.store import open_store
from tests.servers.faults import operation_of
from tests.servers.process import ServerProcess, free_ports
from tests.servers.s3_server import S3Server

BUCKET, INPUT, RUN = "vast", "shards/", "run/"
PAGE_KEYS = 1000
_CONTROL = "/-/counts"
_MODIFIED = "2026-01-02T03:04:05.000Z"
_UNIT_PREFIX = f"{RUN}labels/000/"


@dataclass(frozen=True)
class Content:
    """What is made up.

    Attributes:
        shards: Shards of the input.
        finished: How many of them, from the first on, have all their units in the run directory.
        units_per_shard: Units of a finished shard.
        images_per_unit: Images of each of these units.
        shard_file: File with the bytes that every shard has; "": shards are listed with 1 GB and cannot be read.
        latency_s: What every request waits before it is answered.
    """

    shards: int
    finished: int = 0
    units_per_shard: int = 1
    images_per_unit: int = 250
    shard_file: str = ""
    latency_s: float = 0.0


def shard_name(number: int) -> str:
    """Name of a shard inside the run."""
    return f"{number:07d}.tar"


def keep_totals(server: VastS3) -> None:
    """Give the made-up run the totals that the starts which finished those shards would have left."""
    store = open_store(server.uri(RUN), StorageSettings(endpoint_url=server.endpoint_url))
    totals = RunTotals(store)
    for file in store.list("labels"):
        unit = parse_unit_path(file.path)
        assert unit is not None
        totals.add(file.path, UnitCounts(unit.range.count))
    totals.save()


class VastS3(S3Server):
    """The server as tests see it."""

    def __init__(self, endpoint_url: str) -> None:
        super().__init__(endpoint_url)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def uri(self, path: str) -> str:
        """ "s3://bucket/path"."""
        return f"s3://{BUCKET}/{path}"

    def counts(self, *, forget: bool = False) -> Counter[str]:
        """Requests by kind and part of the bucket: "GetObject labels", "PutObject run", "ListObjectsV2 shards"."""
        method = "DELETE" if forget else "GET"
        request = urllib.request.Request(self.endpoint_url + _CONTROL, method=method)
        with self._opener.open(request, timeout=30) as answer:
            return Counter(json.load(answer))

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return self.counts() is not None
        except OSError:
            return False


@contextmanager
def run_vast_s3(folder: Path, content: Content) -> Iterator[VastS3]:
    """Start it on a free port of 127.0.0.1, with its log in ``folder``."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "tests.servers.vast_s3", str(port), json.dumps(asdict(content))]
    process = ServerProcess(command, log=folder / "vast_s3.log", cwd=Path(__file__).resolve().parents[2])
    server = VastS3(f"http://127.0.0.1:{port}")
    try:
        process.wait_until(server.is_ready)
        yield server
    finally:
        server.close()
        process.stop()


def part_of(key: str) -> str:
    """Which part of the bucket a key or prefix belongs to: "shards", "labels" or "run" for the rest."""
    return "shards" if key.startswith(INPUT) else "labels" if key.startswith(f"{RUN}labels/") else "run"


class _Bucket:
    """Made-up and stored objects."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.latency_s = content.latency_s
        self._shard_bytes = Path(content.shard_file).read_bytes() if content.shard_file else b""
        self._stored: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self.requests: Counter[str] = Counter()

    def count(self, what: str) -> None:
        with self._lock:
            self.requests[what] += 1

    def create(self, key: str, body: bytes, *, only_new: bool) -> bool:
        with self._lock:
            if only_new and (key in self._stored or self._is_made_up(key)):
                return False
            self._stored[key] = body
            return True

    def delete(self, key: str) -> None:
        with self._lock:
            self._stored.pop(key, None)

    def get(self, key: str) -> bytes | None:
        if key in self._stored:
            return self._stored[key]
        return self._shard_bytes if key.startswith(INPUT) and self._is_made_up(key) else None

    def page(self, prefix: str, after: str, wanted: int) -> tuple[list[tuple[str, Callable[[], str]]], bool]:
        """Keys of a page, in order, each with what makes its entry as XML; and whether there are more."""
        keys: list[tuple[str, Callable[[], str]]] = []
        for count, key_at, entry_at in self._made_up(prefix):
            first = bisect_right(range(count), after, key=key_at)
            keys += [(key_at(n), partial(entry_at, n)) for n in range(first, min(count, first + wanted + 1))]
        with self._lock:
            stored = [key for key in self._stored if key.startswith(prefix) and key > after]
            keys += [(key, partial(_entry, key, len(self._stored[key]), 0)) for key in stored]
        keys.sort(key=lambda pair: pair[0])
        return keys[:wanted], len(keys) > wanted

    def _made_up(self, prefix: str) -> Iterator[tuple[int, Callable[[int], str], Callable[[int], str]]]:
        content = self._content
        if _UNIT_PREFIX.startswith(prefix):
            yield content.finished * content.units_per_shard, self._unit_key, self._unit_entry
        if INPUT.startswith(prefix):
            yield content.shards, _shard_key, self._shard_entry

    def _shard_entry(self, number: int) -> str:
        return _entry(_shard_key(number), len(self._shard_bytes) or 10**9, number)

    def _unit_key(self, position: int) -> str:
        content = self._content
        shard, unit = divmod(position, content.units_per_shard)
        last = ".last" if unit == content.units_per_shard - 1 else ""
        name = f"{unit * content.images_per_unit:010d}-{content.images_per_unit:07d}{last}.parquet"
        return f"{_UNIT_PREFIX}{_directory(shard)}/{name}"

    def _unit_entry(self, position: int) -> str:
        return _entry(self._unit_key(position), 50_000, position)

    def _is_made_up(self, key: str) -> bool:
        name = key.removeprefix(INPUT)
        return (
            key.startswith(INPUT)
            and re.fullmatch(r"\d{7}\.tar", name) is not None
            and int(name[:7]) < (self._content.shards)
        )


@lru_cache(maxsize=20 * PAGE_KEYS)
def _directory(shard: int) -> str:
    return shard_directory(shard_name(shard))


def _shard_key(number: int) -> str:
    return f"{INPUT}{shard_name(number)}"


def _entry(key: str, size: int, number: int) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{_MODIFIED}</LastModified><ETag>&quot;{number:032x}&quot;</ETag>"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket: _Bucket  # set by main

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: there are thousands of requests."""

    def do_GET(self) -> None:
        if self.path == _CONTROL:
            return self._answer(200, json.dumps(self.bucket.requests).encode())
        key, query = self._counted()
        if not key:
            return self._list(query)
        return self._object(key, with_body=True)

    def do_HEAD(self) -> None:
        key, _ = self._counted()
        if not key:
            return self._answer(200, b"")
        return self._object(key, with_body=False)

    def do_PUT(self) -> None:
        body = self._body()
        key, _ = self._counted()
        only_new = self.headers.get("If-None-Match") == "*"
        if self.bucket.create(key, body, only_new=only_new):
            return self._answer(200, b"", ETag='"0"')
        return self._error(412, "PreconditionFailed")

    def do_DELETE(self) -> None:
        if self.path == _CONTROL:
            answer = json.dumps(self.bucket.requests).encode()
            self.bucket.requests.clear()
            return self._answer(200, answer)
        key, _ = self._counted()
        self.bucket.delete(key)
        return self._answer(204, b"")

    def _counted(self) -> tuple[str, str]:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        prefix = parse_qs(url.query).get("prefix", [""])[0]
        kind = operation_of(self.command, bucket, key, url.query)
        self.bucket.count(f"{kind} {part_of(key or prefix)}")
        time.sleep(self.bucket.latency_s)
        return key, url.query

    def _list(self, query: str) -> None:
        parameters = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        prefix, wanted = parameters.get("prefix", ""), int(parameters.get("max-keys", PAGE_KEYS))
        after = parameters.get("continuation-token") or parameters.get("start-after", "")
        keys, is_truncated = self.bucket.page(prefix, after, wanted)
        more = f"<NextContinuationToken>{keys[-1][0]}</NextContinuationToken>" if is_truncated else ""
        entries = "".join(entry() for _, entry in keys)
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><MaxKeys>{wanted}</MaxKeys>"
            f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
        )
        self._answer(200, body.encode(), **{"Content-Type": "application/xml"})

    def _object(self, key: str, *, with_body: bool) -> None:
        content = self.bucket.get(key)
        if content is None:
            return self._error(404, "NoSuchKey")
        number = int(key.removeprefix(INPUT)[:7]) if key.startswith(INPUT) else 0
        headers = {"ETag": f'"{number:032x}"', "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._answer(200, content, with_body=with_body, **headers)
        size = len(content)
        first = int(wanted[1]) if wanted[1] else size - int(wanted[2])
        end = min(size, int(wanted[2]) + 1) if wanted[1] and wanted[2] else size
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        return self._answer(206, content[first:end], with_body=with_body, **headers)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size)
            if len(body) < size:  # a client that was killed in the middle has stored nothing
                raise ConnectionAbortedError("the body is cut short")
        else:
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(chunks)
        return _unwrap(body) if "aws-chunked" in self.headers.get("Content-Encoding", "") else body

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes, *, with_body: bool = True, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)


def _unwrap(body: bytes) -> bytes:
    """The content of a body in AWS's own chunks, which carry checksums and signatures."""
    content, rest = b"", body
    while True:
        head, _, rest = rest.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if size == 0:
            return content
        content, rest = content + rest[:size], rest[size + 2 :]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    """Serve until killed."""
    _Handler.bucket = _Bucket(Content(**json.loads(sys.argv[2])))
    _Server(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()


if __name__ == "__main__":
    main()
