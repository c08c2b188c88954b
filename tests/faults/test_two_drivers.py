"""Two drivers on one run: one works, the other says who does; the dead are succeeded, sleepers do no harm."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import AddFaultRow, parts
from tests.faults.scenario import Scenario, numbered_images
from tests.ray_cluster import RunningCluster
from tests.servers.moto_s3 import MotoS3

SECONDS_PER_IMAGE = 0.03
LEASE_S = 8.0
REFUSAL = re.compile(r"is being worked on by process (\d+) on \S+ since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC")


@parts(5)
@pytest.mark.timeout(1500)
def test_of_two_starts_at_one_moment_one_works(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow, faults_long: bool, part: int
) -> None:
    trials = 10 if faults_long else 1
    twice = 0
    for trial in range(trials):
        run = Scenario(tmp_path / f"{trial}", {"a.tar": numbered_images(48, 10 * part + trial)})
        _start_two(run, cluster.address, on_two_machines=trial % 2 == 1)
        twice += run.check(run.reference())
    fault_row("two drivers started at one moment", "one run directory", trials, twice, "one works, one exits with 75")


@pytest.mark.faults_long
@pytest.mark.timeout(900)
def test_of_two_starts_at_one_moment_on_s3_one_works(
    tmp_path: Path, moto_s3: MotoS3, fault_row: AddFaultRow, faults_long: bool
) -> None:
    trials, twice = 4, 0
    for trial in range(trials):
        output = {"output": moto_s3.new_bucket().uri("run")}
        storage = {"endpoint_url": moto_s3.endpoint_url}
        run = Scenario(tmp_path / f"{trial}", {"a.tar": numbered_images(48, trial)}, run=output, storage=storage)
        # Each with a Ray of its own: a cluster that stood before has no credentials for this server.
        _start_two(run, "local", on_two_machines=trial % 2 == 1)
        twice += run.check(run.reference())
    fault_row("two drivers started at one moment", "one run on S3", trials, twice, "one works, one exits with 75")


def _start_two(run: Scenario, ray_address: str, *, on_two_machines: bool) -> None:
    """One works and the other is refused: because the holder's process lives, or because its lease is renewed."""
    options: list[tuple[str, ...]] = [(), ()]
    if on_two_machines:
        options = [("--machine", name, "--lease-s", str(LEASE_S)) for name in ("one", "two")]
    # Slow enough that the first one is still at it when the other one looks.
    with (
        run.start(ray_address, *options[0], seconds_per_image=0.1) as one,
        run.start(ray_address, *options[1], seconds_per_image=0.1) as other,
    ):
        codes = [one.finish(0, 75), other.finish(0, 75)]
    assert sorted(codes) == [0, 75], one.output + other.output
    refused, worked = (one, other) if codes[0] == 75 else (other, one)
    named = REFUSAL.search(refused.output)
    assert named is not None, refused.output
    assert int(named[1]) == worked.pid


@pytest.mark.timeout(900)
def test_a_dead_holder_elsewhere_is_succeeded_when_its_lease_is_over(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow
) -> None:
    run = Scenario(tmp_path, {"a.tar": numbered_images(160)})
    reference = run.reference()
    lease = ("--lease-s", str(LEASE_S))
    with run.start(cluster.address, "--machine", "one", *lease, seconds_per_image=SECONDS_PER_IMAGE) as holder:
        holder.wait_until(lambda: run.num_units >= 2)
        holder.kill()
    with run.start(cluster.address, "--machine", "two", *lease) as successor:
        successor.finish()
    assert f"is held by process {holder.pid} on one since" in successor.output
    fault_row("SIGKILL", "driver; the next one is on another machine", 1, run.check(reference), "waits for the lease")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "wakes", ["while the other works", pytest.param("when the other is done", marks=pytest.mark.faults_long)]
)
def test_a_sleeper_does_no_harm(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow, faults_long: bool, wakes: str
) -> None:
    trials = 6 if faults_long else 1
    twice = 0
    for trial in range(trials):
        # The whole cluster is theirs: what Ray leases to a driver that sleeps is lost until it wakes or is killed.
        run = Scenario(tmp_path / f"{trial}", {f"{i}.tar": numbered_images(120, i) for i in range(2)})
        reference = run.reference()
        lease = ("--lease-s", str(LEASE_S))
        with run.start(cluster.address, "--machine", "one", *lease, seconds_per_image=SECONDS_PER_IMAGE) as sleeper:
            sleeper.wait_until(lambda run=run: run.num_units >= 2)  # type: ignore[misc]
            sleeper.send(signal.SIGSTOP)
            with run.start(cluster.address, "--machine", "two", *lease, seconds_per_image=SECONDS_PER_IMAGE) as other:
                # The sleeper's workers do not sleep: they go on committing what they hold.
                other.wait_until(lambda run=run: len(list(run.store.list("lease"))) == 2)  # type: ignore[misc]
                if wakes == "while the other works":
                    sleeper.send(signal.SIGCONT)
                    sleeper.finish(75)
                other.finish()
            after = run.summary(), {item.path: item.modified_s for item in run.store.list("")}
            if wakes == "when the other is done":
                sleeper.send(signal.SIGCONT)
                sleeper.finish(75)
        assert "took this run over" in sleeper.output
        assert run.summary()["status"] == "done"
        now = run.summary(), {item.path: item.modified_s for item in run.store.list("")}
        leases = {path for path in now[1] if path.startswith("lease/")}
        assert now[0] == after[0]
        assert {path: time for path, time in now[1].items() if path not in leases} == {
            path: time for path, time in after[1].items() if path not in leases
        }
        twice += run.check(reference)
    fault_row("SIGSTOP, SIGCONT", f"driver; it wakes {wakes}", trials, twice, "exit code 75, writes nothing more")
