"""An image that takes the memory of its whole node: somebody kills workers, and not always the culprit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import AddFaultRow
from tests.faults.memory_limit import memory_limit, why_not
from tests.faults.scenario import Scenario, numbered_images
from tests.ray_cluster import RunningCluster, running_cluster
from tests.run_checks import all_rows
from tests.standin import GLUTTON_RED, plain_image

# The cluster's own processes, driver and workers included, have this much; the image fills 6 GB.
ALLOWANCE_BYTES = 4_500_000_000
NEEDED_BYTES = 12_000_000_000
NUM_CPUS = 4  # three actors: two of them are innocent
GLUTTON = ("glutton.tar", 9)

pytestmark = [pytest.mark.faults_long, pytest.mark.timeout(900)]


def _memory_bytes() -> tuple[int, int]:
    """Memory of this machine: all of it, and what is available."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["MemTotal"], sizes["MemAvailable"]


def _scenario(folder: Path) -> Scenario:
    shards = {GLUTTON[0]: numbered_images(24, 1), **{f"{i}.tar": numbered_images(160, i) for i in range(2, 5)}}
    shards[GLUTTON[0]][GLUTTON[1]] = ("00009.png", plain_image((GLUTTON_RED, 10, 9)))
    return Scenario(folder, shards, compute={"max_passes": 2})


def _label(run: Scenario, cluster: RunningCluster) -> int:
    """Label and compare; returns the images done twice."""
    reference = run.reference()
    with run.start(cluster.address, "--poisoned", seconds_per_image=0.1) as driver:
        driver.finish()
    twice = run.check(reference, poisoned=[GLUTTON])
    kinds = {(row["shard"], row["index"]): row["error_kind"] for row in all_rows(run.store)}
    assert {place: kind for place, kind in kinds.items() if kind not in (None, "not_an_image")} == {
        GLUTTON: "worker_died"
    }
    return twice


def test_rays_memory_monitor_kills(tmp_path: Path, fault_row: AddFaultRow) -> None:
    total, available = _memory_bytes()
    if available < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES / 1e9:.0f} GB of free memory, so that nothing else suffers")
    # Only this cluster's raylet looks at this, and it kills its own workers only.
    threshold = (total - available + ALLOWANCE_BYTES) / total
    settings = {"RAY_memory_usage_threshold": f"{threshold:.4f}"}
    with running_cluster(NUM_CPUS, settings) as cluster:
        twice = _label(_scenario(tmp_path), cluster)
        killed = len(cluster.log_lines("based on the killing policy"))
    assert killed >= 2, "nobody killed anything"
    note = f"its workers were killed {killed} times; one error row, neighbours labeled"
    fault_row("Ray's memory monitor", "an image that fills the node's memory", 1, twice, note)


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_the_kernel_kills(tmp_path: Path, fault_row: AddFaultRow) -> None:
    with (
        memory_limit(ALLOWANCE_BYTES) as limit,
        running_cluster(NUM_CPUS, {"RAY_memory_monitor_refresh_ms": "0"}) as cluster,
    ):
        limit.hold(cluster.pids)  # a node in a container
        twice = _label(_scenario(tmp_path), cluster)
        killed = limit.num_killed
    assert killed >= 2, "nobody killed anything"
    note = f"its workers were killed {killed} times; one error row, neighbours labeled"
    fault_row("the kernel's OOM killer", "an image that passes the memory limit of its node's cgroup", 1, twice, note)
