"""How fast a run is compacted, and in how much memory: ``python -m tests.benchmarks.bench_compact [--quick]``.

Runs on the local disk, units of 256 images with four instances each, into files of 50 MB. Memory must not grow with the
run. "Taken up again": the last file and the manifest are gone, as after a kill.
"""

from __future__ import annotations

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.exports.compact import MANIFEST_PATH, compact_run
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.records import Instance, Rle, Shard
from sam3lt_ray.storage.snapshot import write_snapshot
from sam3lt_ray.storage.store import open_store
from sam3lt_ray.vocabulary.labels import Label
from tests.benchmarks.measuring import finish, in_fresh_process, load_now, print_table, read_options
from tests.run_factory import make_image, make_run

IMAGES_PER_SHARD = 1024
LABELS = (Label(1, "cat", ("cat",)), Label(2, "dog", ("dog",)))


@dataclass(frozen=True)
class Compaction:
    """What one took."""

    seconds: float
    peak_mb: float
    files: int
    size_mb: float
    rows: int


def some_instances(rng: np.random.Generator) -> list[Instance]:
    """Four, with run lengths as long as usual, though of no mask: nothing here decodes them."""
    texts = (rng.integers(48, 112, (4, 700), dtype=np.uint8)).view("S700").ravel()
    return [
        Instance(1 + n % 2, 0, 0.9, (1.0, 2.0, 300.0, 400.0), 9000, Rle((480, 640), text.decode()))
        for n, text in enumerate(texts)
    ]


def make(folder: Path, num_shards: int) -> None:
    """A complete run."""
    rng = np.random.default_rng(7)
    presence = {1: 0.9, 2: 0.8}
    for number in range(num_shards):
        shard = f"{number:05d}.tar"
        images = [
            make_image(
                f"{n}.jpg", index=n, shard=shard, size_hw=(480, 640), presence=presence, instances=some_instances(rng)
            )
            for n in range(IMAGES_PER_SHARD)
        ]
        store = make_run(folder, images, LABELS, layer="000", images_per_unit=256)
    write_snapshot(store, [Shard(f"{n:05d}.tar", f"/data/{n:05d}.tar") for n in range(num_shards)])


def compact(run: str, out: str) -> Compaction:
    """In a process of its own."""
    start = time.perf_counter()
    target = open_store(out, StorageSettings())
    summary = compact_run(RunReader(open_store(run, StorageSettings())), target, max_mb=50)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Compaction(time.perf_counter() - start, peak_mb, summary.files, summary.size_bytes / 1e6, summary.rows)


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    rows, figures = [], {}

    def note(name: str, one: Compaction) -> None:
        figures[name] = vars(one)
        cells = [f"{one.rows:,}", f"{one.seconds:.1f}", f"{one.rows / one.seconds:,.0f}", f"{one.peak_mb:.0f}"]
        rows.append([name, *cells, str(one.files), f"{one.size_mb:.0f}"])

    for num_shards in (4,) if options.quick else (16, 64):
        with tempfile.TemporaryDirectory() as folder:
            run, out = Path(folder) / "run", Path(folder) / "out"
            make(run, num_shards)
            note(f"{num_shards} shards", in_fresh_process(compact, str(run), str(out)))
            max(out.glob("*.parquet")).unlink()
            (out / MANIFEST_PATH).unlink()
            note("... taken up again", in_fresh_process(compact, str(run), str(out)))
    print_table(["run", "images", "seconds", "images/s", "memory, MB", "files", "MB in all"], rows)
    finish(options, {"compactions": figures}, load_before)


if __name__ == "__main__":
    main()
