"""Actors, readers and whole nodes that are killed under a driver, which goes on and ends by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import AddFaultRow
from tests.faults.scenario import Driver, Scenario, numbered_images
from tests.ray_cluster import RunningCluster, kill, kill_node, running_cluster

SECONDS_PER_IMAGE = 0.03
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


def _wait_for_actor(cluster: RunningCluster, driver: Driver, node: list[int]) -> None:
    driver.wait_until(lambda: any(ACTOR in title for title in cluster.titles_below(node)))


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
    run = _scenario(tmp_path, 480 * rounds)
    reference = run.reference()
    moments = random.Random(4)
    node = mortal.add_node(2)
    with run.start(mortal.address, seconds_per_image=SECONDS_PER_IMAGE) as driver:
        for trial in range(rounds):
            _wait_for_actor(mortal, driver, node)
            _wait_for_units(run, driver, moments.randint(2, 6))
            assert driver.runs
            kill_node(node)
            if trial + 1 < rounds:
                node = mortal.add_node(2)
        driver.finish()
    twice = run.check(reference)
    fault_row("node lost (SIGKILL of raylet and workers)", "one of two nodes, holding units", rounds, twice)


@pytest.mark.faults_long
@pytest.mark.timeout(900)
def test_the_only_labeling_node_replaced_later(tmp_path: Path, fault_row: AddFaultRow, faults_long: bool) -> None:
    rounds = 2 if faults_long else 1
    run = _scenario(tmp_path, 300 * rounds)
    reference = run.reference()
    with running_cluster(num_cpus=0) as cluster:
        node = cluster.add_node(2)
        with run.start(cluster.address, seconds_per_image=SECONDS_PER_IMAGE) as driver:
            for _ in range(rounds):
                _wait_for_units(run, driver, 3)
                kill_node(node)
                assert driver.runs
                node = cluster.add_node(2)
            driver.finish(timeout_s=300)
    twice = run.check(reference)
    fault_row("node lost, another one joins later", "the only node that labels", rounds, twice)


@pytest.mark.faults_long
@pytest.mark.timeout(900)
def test_all_of_ray(tmp_path: Path, fault_row: AddFaultRow, faults_long: bool) -> None:
    rounds = 2 if faults_long else 1
    run = _scenario(tmp_path, 240 * rounds)
    reference = run.reference()
    codes = []
    for _ in range(rounds):
        with (
            running_cluster() as cluster,
            run.start(cluster.address, seconds_per_image=SECONDS_PER_IMAGE) as driver,
        ):
            _wait_for_units(run, driver, 3)
            kill_node(cluster.head_pids)
            codes.append(driver.end(timeout_s=150))
    assert 0 not in codes, "nobody may take this for success"
    with running_cluster() as cluster, run.start(cluster.address) as driver:
        driver.finish()
    twice = run.check(reference)
    note = f"exit codes {', '.join(map(str, codes))}; the next start goes on"
    fault_row("all of Ray killed (SIGKILL of gcs, raylet, workers)", "under the driver", rounds, twice, note)
