"""A run that is going wrong stops early and says why; a healthy one with some bad images does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.config.schema import InputSettings
from tests.faults.conftest import AddFaultRow
from tests.faults.scenario import Scenario, numbered_images
from tests.ray_cluster import RunningCluster
from tests.standin import plain_image


def test_a_bucket_of_pdfs_is_stopped_within_two_hundred_images(tmp_path: Path, fault_row: AddFaultRow) -> None:
    pdfs = [(f"{i:05d}.jpg", b"%PDF-1.7 page " + str(i).encode()) for i in range(600)]
    pdfs[7:9] = [("seven.jpg", b""), ("eight.jpg", b"hello")]
    units = {"images_per_unit": InputSettings.model_fields["images_per_unit"].default}
    errors = {"max_error_fraction": 0.05}
    run = Scenario(tmp_path, {f"{i}.tar": pdfs for i in range(4)}, input=units, errors=errors)
    with run.start("there is no Ray") as driver:  # and nobody asks for one
        driver.finish(3)
    summary = run.summary()
    assert summary["exit_code"] == 3
    assert summary["complete"] is False
    assert (summary["units"], summary["images"]["total"], summary["session"]["images"]["total"]) == (0, 0, 0)
    looked_at = sum(cause["images"] for cause in summary["causes"])
    assert 100 <= looked_at <= 200
    assert summary["causes"][0]["kind"] == "unsupported"
    assert summary["causes"][0]["cause"].startswith("The file is PDF; decoded are JPEG")
    assert {cause["kind"] for cause in summary["causes"]} == {"unsupported", "empty", "not_an_image"}
    assert "Stopped early" in driver.output
    assert "unsupported: The file is PDF" in driver.output
    note = f"exit code 3 after a look at {looked_at} files, before Ray"
    fault_row("PDFs instead of images, max_error_fraction 0.05", "input of 2,400 files", 1, 0, note)


def test_a_bucket_of_damaged_images_is_stopped_within_two_hundred_images(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow
) -> None:
    # They begin like images: only decoding shows it.
    cut = [(f"{i:05d}.png", plain_image((i % 256, 7, 7), (36, 30))[:60]) for i in range(600)]
    run = Scenario(tmp_path, {f"{i}.tar": cut for i in range(4)}, errors={"max_error_fraction": 0.05})
    with run.start(cluster.address) as driver:
        driver.finish(3)
    summary = run.summary()
    assert (summary["exit_code"], summary["complete"]) == (3, False)
    assert 100 <= summary["images"]["total"] <= 200
    assert {cause["kind"] for cause in summary["causes"]} == {"truncated"}
    assert "Stopped early" in driver.output
    note = f"exit code 3 after {summary['images']['total']} images in units of 8"
    fault_row("images cut off, max_error_fraction 0.05", "input of 2,400 files", 1, 0, note)


@pytest.mark.faults_long
def test_a_healthy_run_with_a_bad_first_shard_goes_on(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow
) -> None:
    first = [(name, b"junk" if i % 5 < 2 else data) for i, (name, data) in enumerate(numbered_images(120))]
    shards = {"0.tar": first, **{f"{i}.tar": numbered_images(130, i) for i in range(1, 8)}}
    run = Scenario(tmp_path, shards, errors={"max_error_fraction": 0.06})
    reference = run.reference()
    with run.start(cluster.address) as driver:
        driver.finish()
    twice = run.check(reference)
    errors = sum(row["status"] == "error" for row in reference)
    fault_row("40 % junk, max_error_fraction 0.06", "first of eight shards", 1, twice, f"{errors} error rows, goes on")
