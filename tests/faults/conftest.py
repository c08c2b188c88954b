"""The table of faults: every test here says with ``fault_row`` what it inflicted; pytest prints the rows at its end.

``make test`` runs few trials of each fault; ``make faults`` (``--faults-long``) many, and what is marked
``faults_long``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.faults.storage_runs import reference  # noqa: F401  (a fixture, found by its name in this module)
from tests.faults.table import FaultRow, format_table, merge_into
from tests.ray_cluster import RunningCluster, running_cluster

HERE = Path(__file__).parent

_ROWS: Final = pytest.StashKey[list[FaultRow]]()
_RAN: Final = pytest.StashKey[set[str]]()
_FAILED: Final = pytest.StashKey[set[str]]()

AddFaultRow = Callable[..., None]


def parts(count: int) -> pytest.MarkDecorator:
    """Splits a long test, so that its trials can be run a few minutes at a time; the short form is the first part.

    The test takes the argument ``part``, from 0, and gives all its parts the same fault and place.
    """
    later = [pytest.param(number, marks=pytest.mark.faults_long) for number in range(1, count)]
    return pytest.mark.parametrize("part", [0, *later], ids=[f"part{number}" for number in range(count)])


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS], config.stash[_RAN], config.stash[_FAILED] = [], set(), set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--faults-long`` the long forms are skipped."""
    if config.getoption("--faults-long"):
        return
    skip = pytest.mark.skip(reason="long form: make faults")
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("faults_long"):
            item.add_marker(skip)


@pytest.fixture
def faults_long(request: pytest.FixtureRequest) -> bool:
    """Whether many trials are wanted."""
    return bool(request.config.getoption("--faults-long"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[RunningCluster]:
    """A Ray cluster of one node in processes of its own, which outlives the drivers; do not kill it."""
    with running_cluster() as running:
        yield running


@pytest.fixture
def fault_row(request: pytest.FixtureRequest) -> AddFaultRow:
    """``fault_row(fault, where, trials, images_twice, note="")`` adds a line to the table.

    Call it after the comparison with the reference. Its seconds are those since the test began, or since the test's
    previous row. A test that fails turns "rows equal" of its rows into "NO".
    """
    since_s = time.monotonic()

    def add(fault: str, where: str, trials: int, images_twice: int, note: str = "") -> None:
        nonlocal since_s
        now_s = time.monotonic()
        row = FaultRow(fault, where, trials, images_twice, True, round(now_s - since_s, 1), note, request.node.nodeid)
        request.config.stash[_ROWS].append(row)
        since_s = now_s

    return add


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" or report.failed:
        item.config.stash[_RAN].add(item.nodeid)
    if report.failed:
        item.config.stash[_FAILED].add(item.nodeid)
    destination = item.config.getoption("--faults-json")
    if destination and report.when == "teardown":  # at once: such a session is long, and may be ended
        merge_into(Path(destination), _rows(item.config), item.config.stash[_RAN])
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    rows = _rows(config)
    if rows:
        terminalreporter.section("faults")
        for line in format_table(rows):
            terminalreporter.write_line(line)


def _rows(config: pytest.Config) -> list[FaultRow]:
    failed = config.stash[_FAILED]
    return [replace(row, equal=row.test not in failed) for row in config.stash[_ROWS]]
