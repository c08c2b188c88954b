"""Workers that are killed while they load the model, as by a node that is reclaimed, or by too little memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.pipeline.start_notes import MAX_DEATHS
from tests.faults.conftest import AddFaultRow
from tests.faults.scenario import Scenario, numbered_images
from tests.ray_cluster import RunningCluster


def _scenario(folder: Path, deaths: int) -> tuple[Scenario, str]:
    run = Scenario(folder, {"0.tar": numbered_images(48)})
    ahead = folder / "deaths"
    ahead.mkdir()
    for number in range(deaths):
        (ahead / f"{number}").touch()
    return run, str(ahead)


@pytest.mark.timeout(400)
def test_a_run_outlives_workers_that_die_while_they_start(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow
) -> None:
    deaths = MAX_DEATHS - 1
    run, ahead = _scenario(tmp_path, deaths)
    with run.start(cluster.address, "--deaths", ahead) as driver:
        driver.finish()
    assert list(Path(ahead).iterdir()) == []
    assert run.summary()["session"]["passes"] == 1
    twice = run.check(run.reference())
    fault_row("SIGKILL", "a worker that loads the model", deaths, twice)


@pytest.mark.timeout(400)
def test_a_run_whose_workers_always_die_while_they_start_ends_and_says_so(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow
) -> None:
    run, ahead = _scenario(tmp_path, 1000)
    with run.start(cluster.address, "--deaths", ahead) as driver:
        driver.finish(1)
    assert f"A worker died {MAX_DEATHS} times in a row while it loaded the model" in driver.output
    assert run.summary()["status"] == "failed"
    assert list(run.store.list("pass")) == []
    fault_row("SIGKILL", "every worker that loads the model", 1, 0, f"exit code 1 after {MAX_DEATHS} deaths of one")
