"""An image that takes the memory of its whole node: Ray's memory monitor kills workers, and not always the culprit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import AddFaultRow
from tests.faults.scenario import Scenario, numbered_images
from tests.ray_cluster import running_cluster
from tests.run_checks import all_rows
from tests.standin import GLUTTON_RED, plain_image

# The cluster's own processes, driver and workers included, have this much; the image fills 6 GB.
ALLOWANCE_BYTES = 4_500_000_000
NEEDED_BYTES = 12_000_000_000


def _memory_bytes() -> tuple[int, int]:
    """Memory of this machine: all of it, and what is available."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["MemTotal"], sizes["MemAvailable"]


@pytest.mark.faults_long
@pytest.mark.timeout(900)
def test_an_image_that_fills_the_memory_of_its_node(tmp_path: Path, fault_row: AddFaultRow) -> None:
    total, available = _memory_bytes()
    if available < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES / 1e9:.0f} GB of free memory, so that nothing else suffers")
    glutton = ("glutton.tar", 9)
    shards = {glutton[0]: numbered_images(24, 1), **{f"{i}.tar": numbered_images(160, i) for i in range(2, 5)}}
    shards[glutton[0]][glutton[1]] = ("00009.png", plain_image((GLUTTON_RED, 10, 9)))
    run = Scenario(tmp_path, shards, compute={"max_passes": 2})
    reference = run.reference()
    # Only this cluster's raylet looks at this, and it kills its own workers only.
    threshold = (total - available + ALLOWANCE_BYTES) / total
    settings = {"RAY_memory_usage_threshold": f"{threshold:.4f}"}
    with running_cluster(num_cpus=4, settings=settings) as cluster:  # three actors: two of them are innocent
        with run.start(cluster.address, "--poisoned", seconds_per_image=0.1) as driver:
            driver.finish()
        killed = len(cluster.log_lines("based on the killing policy"))
    assert killed >= 2, "nobody killed anything"
    twice = run.check(reference, poisoned=[glutton])
    kinds = {(row["shard"], row["index"]): row["error_kind"] for row in all_rows(run.store)}
    assert {place: kind for place, kind in kinds.items() if kind not in (None, "not_an_image")} == {
        glutton: "worker_died"
    }
    note = f"its workers were killed {killed} times; one error row, neighbours labeled"
    fault_row("Ray's memory monitor", "an image that fills the node's memory", 1, twice, note)
