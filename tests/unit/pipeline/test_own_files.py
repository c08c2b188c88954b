"""A run is not made among other people's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.evaluation.figures import EVALUATION_PATH
from sam3lt_ray.exports.coco import DATASET_PATH, IMAGES_PATH, RESULTS_PATH
from sam3lt_ray.exports.compact import DEFAULT_FOLDER, MANIFEST_PATH, PLAN_PATH
from sam3lt_ray.labels.totals import TOTALS_PATH
from sam3lt_ray.pipeline.own_files import is_own, refuse_foreign_files
from sam3lt_ray.report.page import REPORT_PATH
from sam3lt_ray.storage.run_directory import PRECISION_PATH, RUN_PATH, SUMMARY_PATH, VOCABULARY_PATH
from sam3lt_ray.storage.snapshot import SNAPSHOT_PATH
from sam3lt_ray.storage.store import RunStore, open_store

OWN = (
    *(RUN_PATH, VOCABULARY_PATH, PRECISION_PATH, SUMMARY_PATH, TOTALS_PATH, SNAPSHOT_PATH, "probe"),
    *(DATASET_PATH, RESULTS_PATH, IMAGES_PATH, EVALUATION_PATH, REPORT_PATH),
    *(f"{DEFAULT_FOLDER}/{name}" for name in (PLAN_PATH, MANIFEST_PATH, "000000000000-000000005.parquet")),
    *("lease/00000001.json", "layers/000.json", "layers/000-3f9a2c1b.json"),
    *(f"pass/{'0a' * 16}.json", f"pass/{'0a' * 16}/actor.json", "attempts/000/a.tar-0/0000000000-0000005.json"),
    "labels/000/a.tar-0123456789ab/0000000000-0000005.last.retry-001.parquet",
)
FOREIGN = ("cat.jpg", "input/cat.jpg", "labels/cat.txt", "pass/cat.jpg", "exports/mine.json", "runs/a/run.json")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return open_store(str(tmp_path / "run"), StorageSettings())


def test_own_names() -> None:
    assert [path for path in OWN if not is_own(path)] == []
    assert [path for path in FOREIGN if is_own(path)] == []


@pytest.mark.parametrize("path", FOREIGN)
def test_a_place_with_other_files_is_refused(store: RunStore, path: str) -> None:
    store.create(path, b"mine")
    with pytest.raises(RunMismatchError, match=f"holds other files .{path}."):
        refuse_foreign_files(store)
    assert store.exists(path)


def test_what_a_killed_start_leaves_and_hidden_files_are_no_reason(store: RunStore) -> None:
    refuse_foreign_files(store)
    for path in ("lease/00000001.json", "probe", ".DS_Store", "labels/.nfs01"):
        store.create(path, b"")
    refuse_foreign_files(store)
