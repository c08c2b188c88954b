"""A worker process that shows no sign of life ends when its pass is over, and only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.pipeline.pass_marker import marked_pass
from sam3lt_ray.storage.local_store import LocalStore

# Says after which questions it still lives, and touches its guard as a task does that goes on.
_WORKER = """
import sys, time
from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.pipeline import pass_guard
from sam3lt_ray.pipeline.pass_marker import is_current
from sam3lt_ray.storage.local_store import LocalStore

questions = 0
def ask(store, pass_id):
    global questions
    questions += 1
    return is_current(store, pass_id)
pass_guard.is_current = ask
guard = pass_guard.PassGuard(LocalStore(sys.argv[1], StorageSettings()), sys.argv[2], ask_every_s=0.02)
guard.touch()
while questions < 5:
    time.sleep(0.01)
print("asked", flush=True)
sys.stdin.readline()
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("later_pass", [False, True])
def test_it_asks_and_lives_until_the_pass_is_over(tmp_path: Path, later_pass: bool) -> None:
    store = LocalStore(str(tmp_path), StorageSettings())
    sleeper = marked_pass(store)
    pass_id = sleeper.__enter__()
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(tmp_path), pass_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdin is not None
        assert worker.stdout.readline() == "asked\n"
        assert worker.poll() is None
        if later_pass:  # the driver sleeps; another one has taken the run over
            successor = marked_pass(store)
            successor.__enter__()
        else:
            sleeper.__exit__(None, None, None)
        worker.stdin.write("\n")
        _, said = worker.communicate(timeout=50)
    assert worker.returncode == 70
    assert said == "the pass is over; ending the process\n"
