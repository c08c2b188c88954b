"""Actors, readers and whole nodes that are killed under a driver, which goes on and ends by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import AddFaultRow
from tests.faults.scenario import Driver, Scenario, numbered_images
from tests.ray_cluster import RunningCluster, kill, kill_node, process_title, running_cluster
from tests.standin import HoldPoint

SECONDS_PER_IMAGE = 0.03
PROGRAMS = {"gcs": "/gcs_server ", "raylet": "/raylet "}
ACTOR, READER = "MapWorker(MapBatches(SegmentActor))", "ReadUnits"


@pytest.fixture
def mortal() -> Iterator[RunningCluster]:
    """A cluster whose nodes may be killed."""
    with running_cluster() as running:
        yield running


def _scenario(folder: Path, images: int) -> Scenario:
    shards = {f"{number}.tar": numbered_images(images // 3, number) for number in range(3)}
    return Scenario(folder, shards, compute={"max_passes": 6})


def _wait_for_units(run: Scenario, driver: Driver, more: int) -> None:
    enough = run.num_units + more
    driver.wait_until(lambda: run.num_units >= enough)


def _hold_unit(cluster: RunningCluster, driver: Driver, node: list[int], hold: HoldPoint) -> None:
    """An actor on a node stops in the middle of a unit: that unit is on the node and nowhere else.

    All others stop as well until it does: however late it starts, the run is not over.
    """
    asked: set[int] = set()

    def is_held() -> bool:
        for pid in cluster.worker_pids(ACTOR):
            if pid not in asked:
                hold.ask(pid)
                asked.add(pid)
        return any(hold.is_held(pid) for pid in cluster.workers_of(node, ACTOR))

    driver.wait_until(is_held)
    assert driver.runs, driver.output
    for pid in asked.difference(cluster.workers_of(node, ACTOR)):
        hold.release(pid)


@pytest.mark.timeout(1800)
def test_actors_and_readers(tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow, faults_long: bool) -> None:
    rounds = 5 if faults_long else 1
    twice = 0
    for number in range(rounds):
        run = _scenario(tmp_path / f"{number}", 360)
        with run.start(cluster.address, seconds_per_image=SECONDS_PER_IMAGE) as driver:
            for title, more_units in ((READER, 0), (ACTOR, 2)):
                _wait_for_units(run, driver, more_units)
                driver.wait_until(lambda title=title: bool(cluster.worker_pids(title)))  # type: ignore[misc]
                victims = cluster.worker_pids(title)[:1]
                assert victims, f"no {title} to kill: {driver.output}"
                kill(*victims)
            driver.finish()
        twice += run.check(run.reference())
    fault_row("SIGKILL", "a reader and a segment actor of each run", 2 * rounds, twice)


@pytest.mark.timeout(1800)
def test_a_node_out_of_two_while_it_holds_units(
    tmp_path: Path, mortal: RunningCluster, fault_row: AddFaultRow, faults_long: bool
) -> None:
    rounds = 4 if faults_long else 1
    moments = random.Random(4)
    twice = 0
    for number in range(rounds):
        run = _scenario(tmp_path / f"{number}", 480)
        hold = HoldPoint(run.folder / "hold")
        node = mortal.add_node(2)
        with run.start(
            mortal.address, "--hold", str(run.folder / "hold"), seconds_per_image=SECONDS_PER_IMAGE
        ) as driver:
            _hold_unit(mortal, driver, node, hold)
            _wait_for_units(run, driver, moments.randint(2, 6))
            kill_node(node)
            driver.finish()
        twice += run.check(run.reference())
        assert run.summary()["session"]["passes"] > 1, "nothing was lost with the node"
    note = "an actor was held in the middle of a unit; a later pass made up for it"
    fault_row("node lost (SIGKILL of raylet and workers)", "one of two nodes, holding units", rounds, twice, note)


@pytest.mark.faults_long
@pytest.mark.timeout(900)
def test_the_only_labeling_node_replaced_later(tmp_path: Path, fault_row: AddFaultRow, faults_long: bool) -> None:
    rounds = 2 if faults_long else 1
    run = _scenario(tmp_path, 300 * rounds)
    reference = run.reference()
    with running_cluster(num_cpus=0) as cluster:
        node = cluster.add_node(2)
        options = "--hold", str(tmp_path / "hold")
        with run.start(cluster.address, *options, seconds_per_image=SECONDS_PER_IMAGE) as driver:
            for _ in range(rounds):
                _wait_for_units(run, driver, 3)
                _hold_unit(cluster, driver, node, HoldPoint(tmp_path / "hold"))
                kill_node(node)
                assert driver.runs
                node = cluster.add_node(2)
            driver.finish(timeout_s=300)
    twice = run.check(reference)
    fault_row("node lost, another one joins later", "the only node that labels", rounds, twice)


@pytest.mark.faults_long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["all of Ray", "gcs", "raylet"])
def test_ray_itself(tmp_path: Path, fault_row: AddFaultRow, victim: str) -> None:
    rounds = 2
    run = _scenario(tmp_path, 240 * rounds)
    reference = run.reference()
    slowest_s = 0.0
    for _ in range(rounds):
        with (
            running_cluster() as cluster,
            run.start(cluster.address, seconds_per_image=SECONDS_PER_IMAGE) as driver,
        ):
            _wait_for_units(run, driver, 3)
            if victim == "all of Ray":
                kill_node(cluster.head_pids)
            else:
                kill(*(pid for pid in cluster.head_pids if PROGRAMS[victim] in process_title(pid)))
            slowest_s = max(slowest_s, driver.time_to_end(75, timeout_s=150))
        assert "Ray was lost while the run went on" in driver.output
        assert run.summary()["status"] == "interrupted"
        assert "Ray was lost" in run.summary()["message"]
    with running_cluster() as cluster, run.start(cluster.address) as driver:
        driver.finish()
    assert "was not given back" not in driver.output, "the lease was given back"
    twice = run.check(reference)
    note = f"exit code 75 and a summary after {slowest_s:.0f} s at most; the next start goes on"
    fault_row(f"{victim} killed (SIGKILL)", "under the driver", rounds, twice, note)


@pytest.mark.faults_long
@pytest.mark.timeout(600)
def test_a_gcs_that_comes_back(tmp_path: Path, fault_row: AddFaultRow) -> None:
    away_s = 15.0
    run = _scenario(tmp_path, 1800)
    reference = run.reference()
    keeping_state = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "gcs")}
    with (
        running_cluster(settings=keeping_state) as cluster,
        run.start(cluster.address, seconds_per_image=SECONDS_PER_IMAGE) as driver,
    ):
        _wait_for_units(run, driver, 3)
        cluster.restart_gcs(away_s)
        assert driver.runs, driver.output
        driver.finish()
    twice = run.check(reference)
    fault_row("gcs killed (SIGKILL)", f"under the driver; back after {away_s:.0f} s", 1, twice, "one start")
