"""A driver that is really killed, again and again, ends with the labels of one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.storage.store import RunStore, open_store
from tests.ray_cluster import running_cluster
from tests.run_checks import all_rows, assert_exact
from tests.standin import plain_image, write_tar

ROOT = Path(__file__).parents[2]
NUM_KILLS = 20
SECONDS_PER_IMAGE = 0.05
IMAGES_PER_UNIT = 8
SHARDS = {"a.tar": 420, "b.tar": 180, "c.tar": 360}


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A Ray cluster of one node in processes of its own, which outlives the drivers."""
    with running_cluster() as address:
        yield address


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Shards with some unusable images, and a configuration over them."""
    for number, (name, count) in enumerate(SHARDS.items()):
        images = [plain_image(((number * 60 + i) % 200, i % 256, 7 * i % 256), (36 + i % 9, 30)) for i in range(count)]
        images[count // 3] = b"not an image"
        write_tar(tmp_path / "shards" / name, [(f"{i:05d}.png", data) for i, data in enumerate(images)])
    return _write_config(tmp_path, "run")


def _write_config(tmp_path: Path, run: str) -> Path:
    config: dict[str, Any] = {
        "run": {"output": str(tmp_path / run)},
        "input": {"format": "webdataset", "uri": str(tmp_path / "shards"), "images_per_unit": IMAGES_PER_UNIT},
        "vocabulary": ["red circle", "star"],
    }
    path = tmp_path / f"{run}.json"
    path.write_text(json.dumps(config))
    return path


def _start(config_file: Path, ray_address: str, seconds_per_image: float) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RAY_ADDRESS": ray_address,
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.label_with_standin", str(config_file), str(seconds_per_image)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _count_units(store: RunStore) -> int:
    return sum(1 for _ in store.list("labels"))


def _wait_for_units(store: RunStore, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while _count_units(store) < count and process.poll() is None:
        assert time.monotonic() < deadline, "no unit was committed in two minutes"
        time.sleep(0.05)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, f"it ended by itself with {process.returncode}: {output.decode()}"


def _finish(process: subprocess.Popen[bytes]) -> int:
    output, _ = process.communicate(timeout=180)
    assert process.returncode is not None
    assert process.returncode in (0, 75), output.decode()
    return process.returncode


@pytest.mark.timeout(900)
def test_twenty_kills_leave_no_trace(tmp_path: Path, config_file: Path, ray_address: str) -> None:
    reference = _write_config(tmp_path, "reference")
    started = time.monotonic()
    assert _finish(_start(reference, ray_address, 0.0)) == 0
    undisturbed_s = time.monotonic() - started

    moments = random.Random(20)
    store = open_store(str(tmp_path / "run"), StorageSettings())
    num_units = [_count_units(store)]
    for _ in range(NUM_KILLS):
        process = _start(config_file, ray_address, SECONDS_PER_IMAGE)
        if moments.random() < 0.3:  # somewhere in the start-up
            time.sleep(moments.uniform(0.1, min(4.0, undisturbed_s)))
        else:  # around a commit: just before, during, just after
            _wait_for_units(store, num_units[-1] + 1, process)
            time.sleep(moments.uniform(0.0, 1.5 * IMAGES_PER_UNIT * SECONDS_PER_IMAGE))
        _kill(process)
        num_units.append(_count_units(store))
    assert 10 < num_units[-1] < sum(SHARDS.values()) / IMAGES_PER_UNIT, num_units
    assert _finish(_start(config_file, ray_address, 0.0)) == 0

    rows = assert_exact(store, SHARDS)
    assert rows == all_rows(open_store(str(tmp_path / "reference"), StorageSettings()))
    summary = json.loads((tmp_path / "run" / "run_summary.json").read_text())
    assert summary["images"] == {"total": 960, "ok": 957, "error": 3}


def test_ctrl_c_and_sigterm_stop_cleanly(tmp_path: Path, config_file: Path, ray_address: str) -> None:
    store = open_store(str(tmp_path / "run"), StorageSettings())
    for number in (signal.SIGINT, signal.SIGTERM):
        process = _start(config_file, ray_address, SECONDS_PER_IMAGE)
        _wait_for_units(store, _count_units(store) + 1, process)
        process.send_signal(number)
        assert _finish(process) == 75
        summary = json.loads((tmp_path / "run" / "run_summary.json").read_text())
        assert summary["status"] == "interrupted"
        assert "same command" in summary["message"]
    assert _finish(_start(config_file, ray_address, 0.0)) == 0
    assert_exact(store, SHARDS)
