"""Images and shards that nobody can label become error rows with their cause; their neighbours are labeled."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.conftest import AddFaultRow
from tests.faults.scenario import Scenario, numbered_images
from tests.ray_cluster import RunningCluster
from tests.run_checks import all_rows
from tests.standin import HANGER_RED, HOG_RED, KILLER_RED, plain_image

HANG_S = 3.0


@pytest.mark.timeout(900)
def test_poisoned_images_and_shards(tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow) -> None:
    poison = {("killer.tar", 5): KILLER_RED, ("hanger.tar", 17): HANGER_RED, ("hog.tar", 9): HOG_RED}
    shards = {name: [*numbered_images(24, i)] for i, (name, _) in enumerate(poison)}
    for (name, index), red in poison.items():
        shards[name][index] = (f"{index:05d}.png", plain_image((red, 10, index)))
    run = Scenario(
        tmp_path,
        {**shards, "healthy.tar": numbered_images(30, 9), "empty.tar": [("readme.txt", b"no images")]},
        compute={"image_timeout_s": HANG_S, "max_passes": 2},
    )
    for name in ("broken.tar", "payload.tar"):  # one tar is broken in a header, one inside an image
        broken = Scenario(tmp_path / "other", {name: numbered_images(20, 4)}).shards / name
        data = bytearray(broken.read_bytes())
        header = data.index(b"00011.png")
        where = slice(header, header + 60) if name == "broken.tar" else slice(header + 512 + 40, header + 512 + 60)
        data[where] = b"\xff" * (where.stop - where.start)
        (run.shards / name).write_bytes(data)
    reference = run.reference()
    with run.start(cluster.address, "--poisoned") as driver:
        driver.finish()
    twice = run.check(reference, poisoned=list(poison))
    rows = {(row["shard"], row["index"]): row for row in all_rows(run.store)}
    kinds = {place: row["error_kind"] for place, row in rows.items() if row["error_kind"] != "not_an_image"}
    assert {place: kind for place, kind in kinds.items() if kind is not None} == {
        ("killer.tar", 5): "worker_died",
        ("hanger.tar", 17): "worker_died",
        ("hog.tar", 9): "out_of_memory",
        ("broken.tar", 11): "truncated_shard",
        ("payload.tar", 11): "corrupt",
    }
    assert [index for name, index in rows if name == "broken.tar"] == list(range(20))  # those behind it, too
    assert "did not fit into memory" in rows["hog.tar", 9]["error_message"]
    assert list(run.store.list("attempts")) == []
    fault_row(
        "poison: abort, hang, RLIMIT_AS; tar broken in a header, in an image; shard without images",
        "one image or shard each",
        6,
        twice,
        f"{sum(kind is not None for kind in kinds.values())} error rows, neighbours labeled",
    )


def test_a_parquet_row_group_with_a_bad_page(tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow) -> None:
    images = [data for _, data in numbered_images(60)]
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"image": pa.array(images, pa.binary()), "name": [f"{i}.png" for i in range(60)]}),
        sink,
        row_group_size=20,
        compression="zstd",
        use_dictionary=False,
    )
    data = bytearray(sink.getvalue())
    page = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0).data_page_offset
    data[page + 30 : page + 200] = b"\xa5" * 170
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.parquet").write_bytes(data)
    run = Scenario(tmp_path, {}, input={"format": "parquet", "key_column": "name"})
    reference = run.reference()
    with run.start(cluster.address) as driver:
        driver.finish()
    twice = run.check(reference)
    bad = [row["index"] for row in all_rows(run.store) if row["error_kind"] == "corrupt"]
    assert bad == list(range(20, 40))
    fault_row("bad page", "second of three Parquet row groups", 1, twice, "20 corrupt rows, 40 neighbours as they were")


@pytest.mark.faults_long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("change", ["vanishes", "shrinks"])
def test_a_shard_that_changes_during_the_run(
    tmp_path: Path, cluster: RunningCluster, fault_row: AddFaultRow, change: str
) -> None:
    run = Scenario(tmp_path, {f"{i}.tar": numbered_images(64, i) for i in range(4)})
    reference = run.reference()
    victim = run.shards / "3.tar"
    whole = victim.read_bytes()
    times = victim.stat()
    with run.start(cluster.address) as driver:
        driver.wait_until(lambda: run.store.exists("input/shards.parquet"))  # listed, and not yet read
        if change == "vanishes":
            victim.unlink()
        else:
            victim.write_bytes(whole[: len(whole) // 3])
        driver.finish(75)
    assert "3.tar" in driver.output
    done = [(row["shard"], row["index"]) for row in all_rows(run.store)]
    assert done == [(row["shard"], row["index"]) for row in reference if row["shard"] != "3.tar"]
    with run.start(cluster.address) as driver:
        driver.finish(0 if change == "vanishes" else 2)
    assert ("3.tar); labels are kept" if change == "vanishes" else "3.tar was") in driver.output
    victim.write_bytes(whole)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    with run.start(cluster.address) as driver:
        driver.finish()
    twice = run.check(reference)
    note = "exit code 75; then 0, gone" if change == "vanishes" else "exit code 75; then 2, refused by name"
    fault_row(f"shard {change}", "during the run; put back before the next start", 1, twice, note)
