"""SIGKILL of real compactions at random instants: what is there is whole, and the next start ends as if nothing was."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.exports.compact import MANIFEST_PATH, compact_run
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.snapshot import write_snapshot
from sam3lt_ray.storage.store import RunStore, open_store
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_image, make_instance, make_run

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS = 10
_CHILD = """
import sys
from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.exports.compact import compact_run
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.storage.store import open_store
run, out, max_rows = sys.argv[1:]
reader, target = RunReader(open_store(run, StorageSettings())), open_store(out, StorageSettings())
print("ready", flush=True)
compact_run(reader, target, max_rows=int(max_rows), max_mb=None, overwrite=True)
"""


def _make_run(folder: Path) -> RunStore:
    mask = np.zeros((31, 47), bool)
    mask[3:9, 5:20] = True
    found = [make_instance(mask, label_id=3, score=0.75)]
    shards = [f"{number:02}.tar" for number in range(30)]
    images = [
        make_image(f"{index}.jpg", index=index, shard=shard, presence={3: 0.5}, instances=found)
        for shard in shards
        for index in range(20)
    ]
    store = make_run(folder, images, (Label(3, "cat", ("cat",)),))
    write_snapshot(store, [Shard(shard, f"/data/{shard}") for shard in shards])
    return store


def _compact(run: RunStore, out: Path, max_rows: int) -> dict[str, bytes]:
    compact_run(RunReader(run), open_store(str(out), StorageSettings()), max_rows=max_rows, max_mb=None, overwrite=True)
    return _content(out)


def _content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and not path.name.startswith(".")}


def test_killed_at_random_instants(tmp_path: Path) -> None:
    run, out = _make_run(tmp_path / "run"), tmp_path / "out"
    started = time.monotonic()
    whole = {max_rows: _compact(run, tmp_path / f"whole-{max_rows}", max_rows) for max_rows in (7, 11)}
    typical_s = (time.monotonic() - started) / 2
    rng = random.Random(11)
    # Two kills in each kind; the second goes on where the first was killed, or discards the other kind anew.
    for kill in range(KILLS):
        max_rows = (7, 7, 11, 11)[kill % 4]
        command = [sys.executable, "-c", _CHILD, run.uri, str(out), str(max_rows)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, typical_s))
            child.kill()
        for path in out.glob("*.parquet"):
            assert pq.ParquetFile(path).metadata.num_rows == int(path.stem.split("-")[1])
        if (out / MANIFEST_PATH).exists():
            assert _content(out) in whole.values()
        if kill % 3 == 2:
            assert _compact(run, out, max_rows) == whole[max_rows]
    assert _compact(run, out, 7) == whole[7]
