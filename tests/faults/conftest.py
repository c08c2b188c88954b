"""The table of faults: every test here says with ``fault_row`` what it inflicted; pytest prints the rows at its end.

``make test`` runs few trials of each fault; ``make faults`` (``--faults-long``) many, and what is marked
``faults_long``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.faults.storage_runs import reference  # noqa: F401  (a fixture, found by its name in this module)

HERE = Path(__file__).parent


@dataclass
class FaultRow:
    """One line of the table.

    Attributes:
        fault: What was inflicted.
        where: On which process, request or file, at which moment.
        trials: How often.
        images_twice: Images that were labeled more than once because of it, in all trials together: the cost.
        equal: The rows came out equal to those of the reference: the test that says so passed.
        seconds: What the trials took.
        note: Anything else worth knowing.
        test: Node id of the test.
    """

    fault: str
    where: str
    trials: int
    images_twice: int
    equal: bool
    seconds: float
    note: str
    test: str


_ROWS: Final = pytest.StashKey[list[FaultRow]]()
_FAILED: Final = pytest.StashKey[set[str]]()

AddFaultRow = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    _rows(config)


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
        _rows(request.config).append(row)
        since_s = now_s

    return add


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.config.stash.setdefault(_FAILED, set()).add(item.nodeid)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and write it where ``--faults-json`` says."""
    rows, failed = _rows(config), config.stash.get(_FAILED, set())
    if not rows:
        return
    for row in rows:
        row.equal = row.test not in failed
    terminalreporter.section("faults")
    for line in format_table(rows):
        terminalreporter.write_line(line)
    destination = config.getoption("--faults-json")
    if destination:
        Path(destination).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def format_table(rows: list[FaultRow]) -> list[str]:
    """The rows as a Markdown table, which is also readable as it is."""
    head = ("fault", "where", "trials", "images done twice", "rows equal", "seconds", "note")
    body = [
        (
            row.fault,
            row.where,
            f"{row.trials}",
            f"{row.images_twice}",
            "yes" if row.equal else "NO",
            f"{row.seconds:.0f}",
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in [head, *body]
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _rows(config: pytest.Config) -> list[FaultRow]:
    return config.stash.setdefault(_ROWS, [])
