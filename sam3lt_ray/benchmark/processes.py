"""Fresh processes for the contenders, one after the other: they share one device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SHOWN_LINES: Final = 3
_LOGGED_LINES: Final = 60

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ChildAnswer:
    """What a child left behind.

    Attributes:
        content: Its answer; of a child that died the last one before, possibly empty.
        failure: Why it did not come to its end; None if it did.
    """

    content: dict[str, Any]
    failure: str | None


def run_child(spec: dict[str, Any], folder: Path, *, timeout_s: float, say: Say) -> ChildAnswer:
    """Runs ``sam3lt_ray.benchmark.child`` in a new interpreter.

    Args:
        spec: What it shall do; needs "task".
        folder: For specification, answer and error output.
        timeout_s: It is ended after this.
        say: Told the child's error output if it fails.
    """
    name = spec.get("contender", spec["task"])
    spec_path, answer, errors = (folder / f"{name}.{kind}" for kind in ("spec.json", "answer.json", "stderr"))
    spec_path.write_text(json.dumps(spec), encoding="utf-8")
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sam3lt_ray.benchmark.child", str(spec_path), str(answer)]
    failure = None
    with errors.open("w", encoding="utf-8") as stream:
        try:
            code = subprocess.run(
                command, stderr=stream, stdout=stream, env=_environment(), timeout=timeout_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            failure = f"did not end within {timeout_s:.0f} s"
        else:
            if code:
                failure = f"ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
    content = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    text = errors.read_text(encoding="utf-8", errors="replace").strip()
    if failure is not None:
        last = " | ".join(line.strip() for line in text.splitlines()[-_SHOWN_LINES:])
        failure = f"its process {failure}: {last}" if last else f"its process {failure}"
    if failure is not None or any(row.get("status") == "failed" for row in content.get("rows", [])):
        say("\n".join(text.splitlines()[-_LOGGED_LINES:]))
    return ChildAnswer(content, failure)


def _environment() -> dict[str, str]:
    """Ours; but threads that wait for work sleep: spinning, they would take the core that others need."""
    return {"OMP_WAIT_POLICY": "passive", **os.environ}
