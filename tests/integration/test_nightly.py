"""The same job every night over a bucket that grows: what each night asks, says and costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.labels.status import read_run_state
from sam3lt_ray.pipeline import run as run_module
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.store import RunStore, open_store
from tests.asking import load_asked, read_notes
from tests.ray_cluster import kill_node
from tests.run_checks import all_rows, assert_exact
from tests.servers.moto_s3 import REPOSITORY, MotoS3
from tests.servers.s3_server import S3Bucket
from tests.standin import plain_image, write_tar

# ``sam3lt ARGUMENTS`` with the stand-in: only what makes the engine is another one.
COMMAND = """
import sys
from functools import partial
from pathlib import Path
from sam3lt_ray.cli import main
from sam3lt_ray.pipeline import run
from tests.asking import load_asked
run.label_run.__kwdefaults__["load_engine"] = partial(load_asked, notes=Path(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@dataclass
class Nights:
    """A run over a bucket; the red of an image tells which one it is."""

    folder: Path
    bucket: S3Bucket  # the input
    output: str

    def __post_init__(self) -> None:
        self.shards: dict[str, int] = {}
        self.notes = self.folder / "notes"
        self.config = Config.model_validate(
            {
                "run": {"output": self.output},
                "input": {"format": "webdataset", "uri": self.bucket.uri(""), "images_per_unit": 4},
                "vocabulary": ["cat"],
                "storage": {"endpoint_url": self.bucket.server.endpoint_url},
            }
        )

    def add(self, name: str, reds: Iterable[int]) -> None:
        images = [(f"{red:03d}.png", plain_image((red, 90, 200), (40, 31))) for red in reds]
        write_tar(self.folder / name, images)
        self.bucket.put(name, (self.folder / name).read_bytes())
        self.shards[name] = len(images)

    def start(self) -> dict[str, Any]:
        """A night in this process."""
        self._new_notes()
        return label_run(self.config, load_engine=partial(load_asked, notes=self.notes)).to_json()

    def command(self, **environment: str) -> dict[str, Any]:
        """A night as a scheduler starts it: the command in a process of its own."""
        self._new_notes()
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, str(self.notes), "label", "-c", str(self._write_config()), "--json"],
            cwd=REPOSITORY,
            env=_environment() | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.told = done.stderr
        summary: dict[str, Any] = json.loads(done.stdout)
        return summary

    def lose_after_first_unit(self) -> None:
        """A night on a machine called elsewhere, which is lost with its driver as soon as something is committed."""
        before = len(all_rows(self.store))
        command = [sys.executable, "-m", "tests.label_with_standin", str(self._write_config())]
        command += ["--machine", "elsewhere", "--seconds-per-image", "0.3"]
        with subprocess.Popen(
            command, cwd=REPOSITORY, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as driver:
            deadline_s = time.monotonic() + 60
            while len(all_rows(self.store)) == before:
                assert driver.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            kill_node([driver.pid])  # and all of Ray: its workers would go on for a moment

    def committed(self, shard: str) -> list[dict[str, Any]]:
        """Rows of a shard."""
        return [row for row in all_rows(self.store) if row["shard"] == shard]

    def asked(self) -> list[int]:
        """Which images this night asked."""
        asked = read_notes(self.notes)
        assert set(asked.values()) <= {1}, "an image was asked twice"
        return sorted(red for red, _ in asked)

    @property
    def store(self) -> RunStore:
        return open_store(self.config.run.output, self.config.storage)

    def _write_config(self) -> Path:
        path = self.folder / "nightly.json"
        path.write_text(self.config.model_dump_json(), encoding="utf-8")
        return path

    def _new_notes(self) -> None:
        self.notes = self.folder / f"notes-{len(list(self.folder.glob('notes-*')))}"
        self.notes.mkdir()


def _check(summary: dict[str, Any], *, new: int, open_before: int, finished: int, shards: int, images: int) -> None:
    assert (summary["status"], summary["exit_code"], summary["complete"]) == ("done", 0, True)
    assert summary["session"]["shards"] == {
        "new": new,
        "changed": 0,
        "vanished": 0,
        "open_before": open_before,
        "finished": finished,
    }
    assert (summary["shards"], summary["shards_open"]) == (shards, 0)
    assert summary["session"]["images"]["total"] == images


@pytest.mark.usefixtures("local_ray")
def test_every_night_labels_what_is_new(moto_s3: MotoS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(tmp_path, moto_s3.new_bucket(), moto_s3.new_bucket().uri("run"))
    nights.add("a.tar", range(6))
    nights.add("b.tar", range(6, 9))
    _check(nights.start(), new=2, open_before=2, finished=2, shards=2, images=9)
    assert nights.asked() == list(range(9))

    nights.add("c.tar", range(9, 14))
    moto_s3.forget_requests()
    _check(nights.command(), new=1, open_before=1, finished=1, shards=3, images=5)
    assert " images, " in nights.told, "a scheduler's log shows nothing of it"
    assert nights.asked() == list(range(9, 14))
    read = {one.key for one in moto_s3.requests if one.kind == "GetObject" and one.bucket == nights.bucket.name}
    assert read == {"c.tar"}, "a finished shard was opened"

    # The night before dies on another machine, with its lease renewed a moment ago: it is waited for once.
    nights.add("d.tar", range(14, 34))
    nights.lose_after_first_unit()
    held = read_run_state(nights.store).holder
    assert held is not None
    assert "on elsewhere" in held.who
    left = 20 - len(nights.committed("d.tar"))
    monkeypatch.setattr(run_module, "Lease", partial(Lease, duration_s=0.5))
    _check(nights.start(), new=0, open_before=1, finished=1, shards=4, images=left)
    assert len(nights.asked()) == left > 0
    assert_exact(nights.store, nights.shards)

    state = read_run_state(nights.store)
    assert (state.is_complete, state.images_done, state.holder) == (True, 34, None)


def test_a_night_without_additions_costs_one_listing_and_no_gpu(
    moto_s3: MotoS3, tmp_path: Path, local_ray: None
) -> None:
    nights = Nights(tmp_path, moto_s3.new_bucket(), moto_s3.new_bucket().uri("run"))
    nights.add("a.tar", range(4))
    nights.start()
    moto_s3.forget_requests()
    # Joining a Ray that is not there would fail the start.
    summary = nights.command(RAY_ADDRESS="127.0.0.1:1")
    _check(summary, new=0, open_before=0, finished=0, shards=1, images=0)
    assert summary["message"] == "Nothing was missing."
    assert summary["session"]["device"] == "none"
    assert nights.asked() == []

    requests = moto_s3.requests
    assert [one.kind for one in requests if one.bucket == nights.bucket.name] == ["ListObjectsV2"]
    assert not [one.key for one in requests if one.kind == "GetObject" and "labels/" in one.key], "a unit was opened"
    # A new listing, read or write here is paid every night by everybody: docs/growing.md names the number.
    assert Counter(one.kind for one in requests) == {
        "ListObjectsV2": 8,
        "GetObject": 12,
        "PutObject": 8,
        "DeleteObject": 1,
    }

    moto_s3.forget_requests()
    assert read_run_state(nights.store).is_complete
    requests = moto_s3.requests
    assert {one.kind for one in requests} == {"ListObjectsV2", "GetObject", "HeadObject"}, (
        "status has written something"
    )
    assert {one.bucket for one in requests} == {nights.output.split("/")[2]}, "status looked at the input"
    assert not [one.key for one in requests if one.kind == "GetObject" and "labels/" in one.key], "a unit was opened"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "disabled"}
