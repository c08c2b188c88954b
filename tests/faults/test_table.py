"""The table that --faults-json collects over several calls of pytest."""

from __future__ import annotations

from pathlib import Path

from tests.faults.table import FaultRow, format_table, merge_into, read_rows


def _row(test: str, *, fault: str = "SIGKILL", trials: int = 1, twice: int = 0, equal: bool = True) -> FaultRow:
    return FaultRow(fault, "driver", trials, twice, equal, 2.0, "units of 8", test)


def test_what_ran_again_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    merge_into(file, [_row("a", trials=1), _row("b", trials=2), _row("c", trials=3)], {"a", "b", "c"})
    merge_into(file, [_row("b", trials=5)], {"b", "c"})  # c failed before it had anything to say
    assert [(row.test, row.trials) for row in read_rows(file)] == [("a", 1), ("b", 5)]


def test_parts_of_a_fault_are_added_up() -> None:
    rows = [_row("a[0]", trials=20, twice=3), _row("b", fault="SIGTERM"), _row("a[1]", trials=20, twice=4)]
    lines = format_table(rows)
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]] == [
        ["SIGKILL", "driver", "40", "7", "yes", "4", "units of 8"],
        ["SIGTERM", "driver", "1", "0", "yes", "2", "units of 8"],
    ]


def test_one_part_that_fails_is_seen() -> None:
    rows = [_row("a[0]", equal=False), _row("a[1]")]
    assert " NO " in format_table(rows)[2]
