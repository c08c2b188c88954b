"""A driver that is really killed, at random and at exact instants, ends with the labels of one that never was."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import AddFaultRow, parts
from tests.faults.scenario import Scenario, numbered_images
from tests.ray_cluster import RunningCluster
from tests.servers.moto_s3 import MotoS3
from tests.stopping_store import StopPoint, clear

SECONDS_PER_IMAGE = 0.05
STOPPED_IN_S = 30.0


def _scenario(folder: Path, size: int) -> Scenario:
    """Three shards with about ``size`` images together, some of them unusable."""
    counts = {"a.tar": size * 7 // 16, "b.tar": size * 3 // 16, "c.tar": size * 6 // 16}
    shards = {name: numbered_images(count, number) for number, (name, count) in enumerate(counts.items())}
    return Scenario(folder, shards)


@parts(3)
@pytest.mark.timeout(1500)
def test_kills_at_random_instants(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow, faults_long: bool, part: int
) -> None:
    trials = 20 if faults_long else 2
    run = _scenario(tmp_path, max(trials * 96, 480))  # more than two drivers label until they are killed
    reference = run.reference()
    moments = random.Random(20 + part)
    for _ in range(trials):
        before = run.num_units
        with run.start(cluster.address, seconds_per_image=SECONDS_PER_IMAGE) as driver:
            if moments.random() < 0.3:  # somewhere in the start-up
                time.sleep(moments.uniform(0.1, 5.0))
            else:  # around a commit, one of the first or a later one: just before, during, just after
                enough = before + moments.randint(1, 8)
                driver.wait_until(lambda enough=enough: run.num_units >= enough)  # type: ignore[misc]
                time.sleep(moments.uniform(0.0, 12 * SECONDS_PER_IMAGE))
            driver.kill()
    assert 0 < run.num_units < len({(row["shard"], row["index"] // 8) for row in reference}), "nothing was interrupted"
    with run.start(cluster.address) as driver:
        driver.finish()
    twice = run.check(reference)
    assert run.summary()["complete"] is True
    fault_row("SIGKILL", "driver, at a random instant", trials, twice, "units of 8 images")


@pytest.mark.parametrize("victim", ["driver", pytest.param("committing worker", marks=pytest.mark.faults_long)])
@pytest.mark.timeout(1800)
def test_kills_at_the_instant_of_a_commit(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow, faults_long: bool, victim: str
) -> None:
    rounds = 5 if faults_long else 1
    moments = StopPoint.MOMENTS if faults_long else ("written", "named")
    run = _scenario(tmp_path, rounds * 96)
    reference = run.reference()
    signals = tmp_path / "signals"
    signals.mkdir()
    for trial in range(rounds):
        for moment in moments:
            clear(signals)
            options = ["--stop-at", moment, "--stop-folder", str(signals), "--skip", str(trial % 3)]
            if victim == "driver":
                with run.start(cluster.address, *options) as driver:
                    driver.wait_until((signals / "reached").exists)
                    driver.kill()
            else:
                with run.start(cluster.address, *options, "--die", seconds_per_image=0.005) as driver:
                    driver.wait_until((signals / "reached").exists)
                    assert (signals / "reached").exists(), driver.output
                    time.sleep(0.5)  # it goes on without that worker; then the next instant has its turn
                    driver.kill()
    with run.start(cluster.address) as driver:
        driver.finish()
    twice = run.check(reference)
    where = f"{victim}, {', '.join(moments)} a commit"
    fault_row("SIGKILL", where, rounds * len(moments), twice, "instants: see tests/stopping_store.py")


@pytest.mark.faults_long
@pytest.mark.timeout(900)
def test_kills_around_a_put_to_s3(tmp_path: Path, moto_s3: MotoS3, fault_row: AddFaultRow) -> None:
    bucket, moments = moto_s3.new_bucket(), ("before", "written", "after")
    shards = {f"{number}.tar": numbered_images(48, number) for number in range(2)}
    storage = {"endpoint_url": moto_s3.endpoint_url}
    run = Scenario(tmp_path, shards, run={"output": bucket.uri("run")}, storage=storage)
    reference = run.reference()
    signals = tmp_path / "signals"
    signals.mkdir()
    for moment in moments:
        clear(signals)
        if moment == "written":  # the server does it when its sender is gone, and perhaps a successor there
            moto_s3.delay_next(5.0, kind="PutObject", key_part="labels/")
        # A Ray of its own: a cluster that stood before has no credentials for this server.
        with run.start("local", "--stop-at", moment, "--stop-folder", str(signals)) as driver:
            driver.wait_until((signals / "reached").exists)
            assert (signals / "reached").exists(), driver.output
            driver.kill()
    with run.start("local") as driver:
        driver.finish()
    twice = run.check(reference)
    fault_row("SIGKILL", "driver, before, during, after a PUT of labels to S3", len(moments), twice)


@pytest.mark.timeout(1800)
def test_ctrl_c_and_sigterm_stop_in_good_order(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow, faults_long: bool
) -> None:
    rounds = 8 if faults_long else 1
    run = _scenario(tmp_path, 400 * rounds)
    reference = run.reference()
    slowest_s = 0.0
    for number in (signal.SIGINT, signal.SIGTERM) * rounds:
        before = run.num_units
        with run.start(cluster.address, seconds_per_image=SECONDS_PER_IMAGE) as driver:
            driver.wait_until(lambda before=before: run.num_units > before)  # type: ignore[misc]
            driver.send(number)
            # The promise: a scheduler's grace period.
            slowest_s = max(slowest_s, driver.time_to_end(75, timeout_s=STOPPED_IN_S))
        assert run.summary()["status"] == "interrupted"
        assert "same command" in run.summary()["message"]
    with run.start(cluster.address) as driver:
        driver.finish()
    twice = run.check(reference)
    fault_row("SIGINT, SIGTERM", "driver", 2 * rounds, twice, f"exit code 75 after {slowest_s:.1f} s at most")


def test_sigterm_while_storage_says_nothing(tmp_path: Path, s3_credentials: None, fault_row: AddFaultRow) -> None:
    """Before anything is labeled: the driver still looks at its run directory."""
    asked = threading.Event()
    connections: list[socket.socket] = []

    def take_and_keep() -> None:
        with suppress(OSError):  # until nobody listens any more
            while True:
                connections.append(server.accept()[0])
                asked.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=take_and_keep)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        run = Scenario(tmp_path, {}, storage={"endpoint_url": endpoint})
        run.config_file.write_text(run.config_file.read_text().replace(str(tmp_path / "run"), "s3://bucket/run"))
        with run.start("local") as driver:
            driver.wait_until(asked.is_set)
            driver.send(signal.SIGTERM)
            seconds = driver.time_to_end(75, timeout_s=STOPPED_IN_S)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()
    assert "Stopped by a signal" in driver.output
    fault_row("SIGTERM", "driver, before it labels; S3 does not answer", 1, 0, f"exit code 75 after {seconds:.1f} s")
