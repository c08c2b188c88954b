"""Local disks that are full or read-only, under whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3lt_ray.errors import EXIT_FAILED, EXIT_USAGE
from sam3lt_ray.storage.store_paths import TEMPORARY_PREFIX
from tests.faults.disks import Disk, disk  # noqa: F401  (a fixture, found by its name in this module)
from tests.faults.storage_runs import FaultyRun, Reference, make_config

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(600)]

KB = 1024


def _run_on(disk: Disk, reference: Reference, tmp_path: Path) -> FaultyRun:  # noqa: F811
    config = make_config(str(disk.folder / "run"), str(reference.folder / "shards"), reference.input_format)
    return FaultyRun(config, tmp_path / "tally")


def _committed(disk: Disk) -> list[Path]:  # noqa: F811
    """The units there are; each is a whole file, and nothing unfinished lies beside them."""
    files = sorted((disk.folder / "run" / "labels").rglob("*.parquet"))
    assert all(pq.read_table(path).num_rows > 0 for path in files)
    assert list((disk.folder / "run").rglob(f"{TEMPORARY_PREFIX}*")) == []
    return files


def test_a_disk_that_fills_up(
    disk: Disk,  # noqa: F811
    reference: Reference,
    tmp_path: Path,
    fault_row: Callable[..., None],
) -> None:
    run = _run_on(disk, reference, tmp_path)
    disk.leave_free(80 * KB)
    assert run.start() is None
    assert run.exit_codes == [EXIT_FAILED]
    assert "The disk is full, or its quota used up" in run.errors[0]
    assert "labels of 4 units in a row could not be stored" in run.errors[0]
    committed = _committed(disk)
    assert 0 < len(committed) < 16
    disk.make_room()
    run.finish()
    twice = run.assert_equals(reference)
    assert set(committed) < set(_committed(disk))
    fault_row("disk full", f"after {len(committed)} of 16 units", 1, twice, "tmpfs of 1 MB; exit code 1, then 0")


def test_a_disk_that_is_full_from_the_start(disk: Disk, reference: Reference, tmp_path: Path) -> None:  # noqa: F811
    run = _run_on(disk, reference, tmp_path)
    disk.leave_free(0)
    assert run.start() is None
    assert run.exit_codes == [EXIT_FAILED]
    assert "The disk is full" in run.errors[0]
    assert run.images_labeled == 0
    assert [path for path in (disk.folder / "run").rglob("*") if path.is_file()] == []


def test_a_read_only_disk_is_refused_at_once(disk: Disk, reference: Reference, tmp_path: Path) -> None:  # noqa: F811
    run = _run_on(disk, reference, tmp_path)
    disk.make_read_only()
    assert run.start() is None
    assert run.exit_codes == [EXIT_USAGE]
    assert "mounted read-only. Use another place" in run.errors[0]
    assert run.images_labeled == 0


@pytest.mark.faults_long
def test_a_disk_that_becomes_read_only(
    disk: Disk,  # noqa: F811
    reference: Reference,
    tmp_path: Path,
    fault_row: Callable[..., None],
) -> None:
    run = _run_on(disk, reference, tmp_path)
    assert run.start(after_units=(3, disk.make_read_only)) is None
    assert run.exit_codes == [EXIT_FAILED]
    assert "mounted read-only" in run.errors[0]
    assert run.images_labeled <= reference.images_labeled, "it began another pass for nothing"
    disk.make_writable()
    committed = _committed(disk)
    run.forget_lease()
    run.finish()
    twice = run.assert_equals(reference)
    fault_row("disk becomes read-only", f"after {len(committed)} of 16 units", 1, twice, "exit code 1, then 0")
