"""A run that something is done to, and the reference it is compared with afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sam3lt_ray.config.schema import Config, StorageSettings
from sam3lt_ray.inputs.listing import list_shards
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.labels.rows import Provenance, build_rows, encode_unit_file
from sam3lt_ray.records import ReadRange
from sam3lt_ray.stages.label import ImageLabeler
from sam3lt_ray.storage.ledger import parse_unit_path, unit_path
from sam3lt_ray.storage.store import open_store
from sam3lt_ray.storage.store_paths import TEMPORARY_PREFIX
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from tests.run_checks import OF_A_FINISHED_RUN, all_rows
from tests.standin import StandInEngine, plain_image, write_tar

ROOT = Path(__file__).parents[2]
LABELS = ("red circle", "star")
Members = Sequence[tuple[str, bytes]]


def numbered_images(count: int, number: int = 0) -> list[tuple[str, bytes]]:
    """Members of a shard; what is at a third of it is no image."""
    images = [plain_image(((number * 60 + i) % 200, i % 256, 7 * i % 256), (36 + i % 9, 30)) for i in range(count)]
    if count:
        images[count // 3] = b"not an image"
    return [(f"{i:05d}.png", data) for i, data in enumerate(images)]


class Scenario:
    """A run directory, its input, and the drivers that are started on it.

    Args:
        folder: Everything is below it.
        shards: Members by name of the tar.
        **settings: Sections of the configuration to add or change.
    """

    def __init__(self, folder: Path, shards: dict[str, Members], **settings: dict[str, Any]) -> None:
        self.folder = folder
        self.shards = folder / "shards"
        for name, members in shards.items():
            write_tar(self.shards / name, members)
        content: dict[str, Any] = {
            "run": {"output": str(folder / "run")},
            "input": {"format": "webdataset", "uri": str(self.shards), "images_per_unit": 8},
            "vocabulary": list(LABELS),
        }
        for section, values in settings.items():
            content[section] = {**content.get(section, {}), **values}
        self.config = Config.model_validate(content)
        self.config_file = folder / "config.json"
        self.config_file.write_text(json.dumps(content))
        self.labeled = folder / "labeled"
        self.labeled.touch()
        self.store = open_store(self.config.run.output, self.config.storage)

    def start(self, ray_address: str, *options: str, seconds_per_image: float = 0.0) -> Driver:
        """Start a driver on a cluster ("local": on a Ray of its own)."""
        command = [sys.executable, "-m", "tests.label_with_standin", str(self.config_file)]
        command += ["--seconds-per-image", str(seconds_per_image), "--labeled", str(self.labeled), *options]
        return Driver(command, ray_address)

    @property
    def num_units(self) -> int:
        """Committed units."""
        return sum(1 for _ in self.store.list("labels"))

    def summary(self) -> dict[str, Any]:
        """run_summary.json."""
        content: dict[str, Any] = json.loads(self.store.read("run_summary.json"))
        return content

    def reference(self) -> list[dict[str, Any]]:
        """The rows that an undisturbed run makes, from the product's stages in one process, without Ray."""
        vocabulary = Vocabulary(tuple(Label(i + 1, name, (name,)) for i, name in enumerate(LABELS)), "test")
        engine = StandInEngine(len(LABELS))
        settings = self.config
        labeler = ImageLabeler(
            engine,
            vocabulary,
            merge_iou=settings.labeling.merge_iou,
            max_pixels=settings.input.max_pixels,
            decode_threads=1,
        )
        loose = settings.input.format in ("folder", "manifest")
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(folder, StorageSettings())
            for shard in list_shards(settings.input, settings.storage):
                for unit in read_units(shard, [ReadRange()], settings.input, settings.storage):
                    rows = build_rows(unit, labeler.label_unit(unit)[0], loose_files=loose)
                    store.create(
                        unit_path("000", unit.shard, unit.range),
                        encode_unit_file(unit, rows, Provenance("", {}, ((1, LABELS[0]), (2, LABELS[1])))),
                    )
            return all_rows(store)

    def check(self, reference: list[dict[str, Any]], *, poisoned: Sequence[tuple[str, int]] = ()) -> int:
        """Compare the rows with the reference to the last character of their run lengths.

        Args:
            reference: What :meth:`reference` said.
            poisoned: Shard and index of images that are error rows here and fine in the reference.

        Returns:
            How many images were labeled more often than once.
        """
        rows = all_rows(self.store)
        assert [(row["shard"], row["index"]) for row in rows] == [(row["shard"], row["index"]) for row in reference]
        spoiled = set(poisoned)
        assert [row for row in rows if (row["shard"], row["index"]) not in spoiled] == [
            row for row in reference if (row["shard"], row["index"]) not in spoiled
        ]
        self._check_files()
        return self.labeled.stat().st_size - sum(1 for row in rows if row["status"] == "ok")

    def _check_files(self) -> None:
        """Below labels/ are units, and elsewhere what a finished run has.

        Temporary names of killed writers may be anywhere; a later start removes them.
        """
        root = Path(self.config.run.output)  # of a run on S3: a place without files
        long_ago_s = time.time() - 7200
        for path in root.rglob(f"{TEMPORARY_PREFIX}*"):
            os.utime(path, (long_ago_s, long_ago_s))
        self.store.remove_abandoned()
        assert [item.path for item in self.store.list("labels") if parse_unit_path(item.path) is None] == []
        assert list(root.rglob(f"{TEMPORARY_PREFIX}*")) == []
        assert [item.path for item in self.store.list("") if not item.path.startswith(OF_A_FINISHED_RUN)] == []


class Driver:
    """A driver process; a context manager that leaves nothing running."""

    def __init__(self, command: list[str], ray_address: str) -> None:
        environment = {**os.environ, "RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._process.pid
        self.output = ""

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate(timeout=60)
        if self._process.stdout is not None:  # nobody has read what it said, if a test has failed
            self._process.stdout.close()

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; it must not have ended by itself."""
        self._process.kill()
        code = self.end(60)
        assert code == -signal.SIGKILL, f"it ended by itself with {code}: {self.output}"

    def finish(self, *expected: int, timeout_s: float = 180) -> int:
        """Wait for its end; returns its exit code, which must be an expected one (0 when none is given)."""
        code = self.end(timeout_s)
        assert code in (expected or (0,)), f"it ended with {code}: {self.output}"
        return code

    def time_to_end(self, *expected: int, timeout_s: float) -> float:
        """Like :meth:`finish`; returns the seconds it took."""
        began_s = time.monotonic()
        self.finish(*expected, timeout_s=timeout_s)
        return time.monotonic() - began_s

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 120) -> None:
        """Wait for something while it runs; it may end first."""
        deadline = time.monotonic() + timeout_s
        while self.runs and not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain: {self.output}"
            time.sleep(0.02)

    def end(self, timeout_s: float) -> int:
        """Wait for its end, whatever its exit code."""
        try:
            output, _ = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # faulthandler or not: it must not outlive the test
            output, _ = self._process.communicate(timeout=60)
            raise AssertionError(f"it did not end in {timeout_s:.0f} s: {output.decode(errors='replace')}") from None
        self.output += output.decode(errors="replace")
        assert self._process.returncode is not None
        return self._process.returncode
