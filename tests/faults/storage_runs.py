"""Whole runs for storage faults: an input, what a run without faults makes of it, and what is compared afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.errors import EXIT_RETRY, Sam3ltError
from sam3lt_ray.pipeline.actor_plan import ActorResources
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.pipeline.summary import RunSummary
from sam3lt_ray.progress import SilentProgress
from sam3lt_ray.storage.store import RunStore, open_store
from sam3lt_ray.storage.store_paths import TEMPORARY_PREFIX
from tests.run_checks import OF_A_FINISHED_RUN, all_rows, assert_exact
from tests.servers.s3_server import S3Bucket
from tests.standin import StandInEngine, plain_image, write_tar

SHARDS: Final = {"a.tar": 40, "sub/b.tar": 24}
NUM_IMAGES: Final = sum(SHARDS.values())
IMAGES_PER_UNIT: Final = 4
_CUT: Final = {"images_per_unit": IMAGES_PER_UNIT, "images_per_group": 40}
_MOST_STARTS: Final = 6


class CountingEngine(StandInEngine):
    """The stand-in, which adds a byte to a file for every image it labels."""

    def __init__(self, num_prompts: int, tally: Path) -> None:
        super().__init__(num_prompts)
        self._tally = tally

    def _one(self, image: Any, size_hw: tuple[int, int]) -> Any:
        descriptor = os.open(self._tally, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b".")
        os.close(descriptor)
        return super()._one(image, size_hw)


def load_counting(
    checkpoint: Checkpoint, prompts: Sequence[str], config: Config, resources: ActorResources, *, tally: Path
) -> CountingEngine:
    """An engine factory for ``label_run``."""
    return CountingEngine(len(prompts), tally)


class Messages(SilentProgress):
    """Keeps what a person would be told; may do something after a number of units."""

    def __init__(self, after_units: tuple[int, Callable[[], None]] | None) -> None:
        self.texts: list[str] = []
        self._after_units = after_units
        self._units = 0

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        self._units += 1
        if self._after_units is not None and self._units == self._after_units[0]:
            self._after_units[1]()

    def message(self, text: str) -> None:
        self.texts.append(text)


def write_input(folder: Path, input_format: str) -> dict[str, int]:
    """The same images in any format, with an unusable one in each shard; returns the number of images by shard."""
    for number, (name, count) in enumerate(SHARDS.items()):
        images = [plain_image((i * 5 % 200, number * 90, i * 11 % 256), (44 + i % 3, 31)) for i in range(count)]
        images[7] = b"no image"
        _WRITERS[input_format](folder / name, images)
    if input_format == "folder":
        return {"group-000000": 40, "group-000001": NUM_IMAGES - 40}
    return {name if input_format == "webdataset" else f"{name}.parquet": count for name, count in SHARDS.items()}


def _write_tar(path: Path, images: Sequence[bytes]) -> None:
    # Side files make the tars a few hundred KB large.
    noise = bytes(range(256)) * 40
    named = [[(f"{i:05d}.png", image), (f"{i:05d}.bin", noise)] for i, image in enumerate(images)]
    write_tar(path, [member for members in named for member in members])


def _write_parquet(path: Path, images: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": list(images)}), f"{path}.parquet", row_group_size=10)


def _write_files(path: Path, images: Sequence[bytes]) -> None:
    path.mkdir(parents=True)
    for i, image in enumerate(images):
        (path / f"{i:05d}.png").write_bytes(image)


_WRITERS: Final = {"webdataset": _write_tar, "parquet": _write_parquet, "folder": _write_files}


def make_config(output: str, uri: str, input_format: str, **sections: dict[str, Any]) -> Config:
    """A configuration; sections complete the usual settings."""
    settings: dict[str, Any] = {
        "run": {"output": output},
        "input": _CUT | {"uri": uri, "format": input_format},
        "vocabulary": ["cat", "dog"],
    }
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return Config.model_validate(settings)


@dataclass
class FaultyRun:
    """A run that is started until it is done, as a scheduler would.

    Attributes:
        config: Its settings.
        tally: File with a byte for every image that was labeled.
        exit_codes: Of the starts so far.
        messages: What a person was told.
        errors: The sentences with which starts failed.
    """

    config: Config
    tally: Path
    exit_codes: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def store(self) -> RunStore:
        """Its run directory."""
        return open_store(self.config.run.output, self.config.storage)

    def start(self, after_units: tuple[int, Callable[[], None]] | None = None) -> RunSummary | None:
        """Start it once; None when that ended with an error. ``after_units``: what to do after how many units."""
        progress = Messages(after_units)
        summary = None
        try:
            summary = label_run(
                self.config, load_engine=partial(load_counting, tally=self.tally), progress=progress, on_exists="resume"
            )
            self.exit_codes.append(summary.exit_code)
            self.messages.append(summary.message)
        except Sam3ltError as error:
            self.exit_codes.append(error.exit_code)
            self.errors.append(error.message)
        self.messages += progress.texts
        return summary

    def finish(self) -> None:
        """Start it until it is done; every start before must say that another one is worthwhile."""
        while (summary := self.start()) is None or summary.status != "done":
            assert self.exit_codes[-1] == EXIT_RETRY, (self.errors, self.messages)
            assert len(self.exit_codes) < _MOST_STARTS, (self.errors, self.messages)

    def forget_lease(self) -> None:
        """As if the process that held the run were gone; it was this one, which lives on."""
        for item in list(self.store.list("lease")):
            self.store.delete(item.path)

    @property
    def images_labeled(self) -> int:
        """All images that were labeled, again ones included."""
        return self.tally.stat().st_size if self.tally.exists() else 0

    def assert_equals(self, reference: Reference) -> int:
        """Compare with the run without faults; returns how many images were labeled again because of the fault."""
        rows = assert_exact(self.store, reference.images_by_shard)
        assert rows == reference.rows
        left = [item.path for item in self.store.list("") if not item.path.startswith(OF_A_FINISHED_RUN)]
        assert left == []
        return self.images_labeled - reference.images_labeled


@dataclass(frozen=True)
class Reference:
    """What a run without faults makes of the input."""

    folder: Path
    input_format: str
    rows: list[dict[str, Any]]
    images_by_shard: dict[str, int]
    images_labeled: int


def make_reference(folder: Path, input_format: str = "webdataset") -> Reference:
    """Write the input and label it, both on disk."""
    images_by_shard = write_input(folder / "shards", input_format)
    run = FaultyRun(make_config(str(folder / "run"), str(folder / "shards"), input_format), folder / "tally")
    run.finish()
    rows = all_rows(run.store)
    assert run.images_labeled == NUM_IMAGES - len(SHARDS)  # those that are no images never reach the engine
    assert list((folder / "run").rglob(f"{TEMPORARY_PREFIX}*")) == []
    return Reference(folder, input_format, rows, images_by_shard, run.images_labeled)


def upload(bucket: S3Bucket, reference: Reference) -> str:
    """Put the input into a bucket; returns its uri."""
    shards = reference.folder / "shards"
    for path in sorted(path for path in shards.rglob("*") if path.is_file()):
        bucket.put(f"in/{path.relative_to(shards).as_posix()}", path.read_bytes())
    return bucket.uri("in/")


def on_s3(bucket: S3Bucket, reference: Reference, tmp_path: Path, **storage: Any) -> FaultyRun:
    """A run whose input and output are in a bucket; one that falls silent is asked again after a second."""
    settings = {"endpoint_url": bucket.server.endpoint_url, "timeout_s": 1.0, **storage}
    config = make_config(bucket.uri("runs/one"), upload(bucket, reference), reference.input_format, storage=settings)
    return FaultyRun(config, tmp_path / "tally")


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Reference:
    """The run that all others are compared with."""
    return make_reference(tmp_path_factory.mktemp("reference"))
