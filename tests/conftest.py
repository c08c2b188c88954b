"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Read when Triton is imported, which torch may do at any time: without a GPU its kernels run in its interpreter.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Ray's workers give way to every other process (niceness 15); beside a busy one tests would take many times as long.
os.environ.setdefault("RAY_worker_niceness", "0")

from tests.local_ray import local_ray  # noqa: F401  (fixtures are found by their names in this module)
from tests.servers.fixtures import (  # noqa: F401  (fixtures are found by their names in this module)
    moto_bucket,
    moto_process,
    moto_s3,
    s3_credentials,
    seaweed,
    seaweed_bucket,
)

# The same examples every time, so that a failure is a change's own; HYPOTHESIS_PROFILE=explore looks for new ones.
# No deadline: how long an example takes is the machine's affair.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", derandomize=False, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

_UNIT_TESTS = Path(__file__).parent / "unit"
_SERVERS = {"seaweed", "moto_process"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of tests/faults; pytest looks for options here only."""
    parser.addoption("--faults-long", action="store_true", help="many trials of each fault, and the long tests")
    parser.addoption("--faults-json", metavar="FILE", help="put the table of faults there; what did not run now stays")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests stay fast: none of them may start a server."""
    for item in items:
        servers = _SERVERS.intersection(getattr(item, "fixturenames", ()))
        if servers and item.path.is_relative_to(_UNIT_TESTS):
            raise pytest.UsageError(f"{item.nodeid} uses {sorted(servers)}: such a test belongs into tests/contracts")
