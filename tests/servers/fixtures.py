"""The fixtures of the test servers; ``tests/conftest.py`` makes them known. A server starts when first asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.servers.moto_s3 import MotoS3, run_moto_s3
from tests.servers.s3_server import UNWANTED_VARIABLES, S3Bucket, S3Server, credential_environment
from tests.servers.seaweed import run_seaweed


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test servers' credentials in the environment, and nothing else for S3 clients to find.

    Sessions opened by the test are closed afterwards, so that the next test's clients start from the environment.
    """
    for name in UNWANTED_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in credential_environment().items():
        monkeypatch.setenv(name, value)
    yield
    close_s3_sessions()


def close_s3_sessions() -> None:
    """Close the connections of every s3fs filesystem of this process, and forget the instances."""
    if "s3fs" not in sys.modules:
        return
    import gc

    from fsspec.asyn import sync
    from s3fs import S3FileSystem

    classes = [S3FileSystem, *S3FileSystem.__subclasses__()]
    filesystems = {id(item): item for cls in classes for item in cls._cache.values()}
    # An instance made by another thread is cached under that thread, one made by unpickling may not be at all.
    filesystems.update({id(item): item for item in gc.get_objects() if type(item) in classes})
    for filesystem in filesystems.values():
        creator = getattr(filesystem, "_s3creator", None)
        if creator is not None and getattr(filesystem, "_s3", None) is not None:
            sync(filesystem.loop, creator.__aexit__, None, None, None, timeout=10)
            filesystem._s3 = None
    for cls in classes:
        cls.clear_instance_cache()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real object store for the whole session. Tests share it: use buckets of your own."""
    with run_seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def seaweed_bucket(seaweed: S3Server, s3_credentials: None) -> S3Bucket:
    """A new bucket on SeaweedFS, with credentials in the environment."""
    return seaweed.new_bucket()


@pytest.fixture(scope="session")
def moto_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoS3]:
    """The moto server behind :func:`moto_s3`; tests use that one."""
    with run_moto_s3(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def moto_s3(moto_process: MotoS3, s3_credentials: None) -> Iterator[MotoS3]:
    """An empty S3 server that counts and fails on demand, with credentials in the environment."""
    moto_process.reset()
    yield moto_process
    moto_process.reset()


@pytest.fixture
def moto_bucket(moto_s3: MotoS3) -> S3Bucket:
    """A new bucket on the moto server."""
    bucket = moto_s3.new_bucket()
    moto_s3.forget_requests()
    return bucket
