"""The table of faults; ``python -m tests.faults.table FILE`` prints the one that ``--faults-json`` has collected."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class FaultRow:
    """What one test inflicted.

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


def merge_into(path: Path, rows: Sequence[FaultRow], ran: Collection[str]) -> None:
    """Write rows to a JSON file, and keep what stands there of tests that did not run this time.

    Args:
        path: The file; need not exist.
        rows: What the tests of now have to say.
        ran: Node ids of those tests. One that failed before it had a row takes its old one away.
    """
    kept = [row for row in read_rows(path) if row.test not in ran] if path.exists() else []
    together = sorted([*kept, *rows], key=lambda row: row.test)
    path.write_text(json.dumps([asdict(row) for row in together], indent=2) + "\n", encoding="utf-8")


def read_rows(path: Path) -> list[FaultRow]:
    """Read what :func:`merge_into` wrote."""
    return [FaultRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def format_table(rows: Sequence[FaultRow]) -> list[str]:
    """The rows as a Markdown table, which is also readable as it is; parts of one fault are added up."""
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
        for row in _add_up_parts(rows)
    ]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in [head, *body]
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _add_up_parts(rows: Sequence[FaultRow]) -> list[FaultRow]:
    """One row for each fault and place: long tests come in parts, which can be run one by one."""
    together: dict[tuple[str, str], FaultRow] = {}
    for row in rows:
        known = together.get((row.fault, row.where))
        if known is not None:
            row = replace(
                row,
                trials=known.trials + row.trials,
                images_twice=known.images_twice + row.images_twice,
                equal=known.equal and row.equal,
                seconds=known.seconds + row.seconds,
                note=known.note if row.note in known.note else f"{known.note}; {row.note}",
            )
        together[row.fault, row.where] = row
    return list(together.values())


def main() -> None:
    """Print the table of a JSON file."""
    for line in format_table(read_rows(Path(sys.argv[1]))):
        print(line)


if __name__ == "__main__":
    main()
