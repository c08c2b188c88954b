"""A local Ray for tests, started when the first one asks for it; ``tests/conftest.py`` makes the fixture known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.s3_server import credential_environment


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray with two logical CPUs and a small object store."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        for name, value in credential_environment().items():
            patch.setenv(name, value)  # workers inherit the environment in which Ray was started
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=500_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield
        ray.shutdown()
