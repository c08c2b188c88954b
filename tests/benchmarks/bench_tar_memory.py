"""Resident memory while a large tar is read: how far it grows beyond the units in flight.

    python -m tests.benchmarks.bench_tar_memory [--quick] [--json FILE]

A 2 GB tar of 2 MB images is written sparse, so it takes no room on disk; it is read through the product's own
reader, in units of 16 images, by a process whose high-water mark (VmHWM) is compared with what it held before it
opened the shard. --quick reads 400 MB.
"""

from __future__ import annotations

import tarfile
import tempfile
import time
from pathlib import Path

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import ReadRange, Shard
from tests.benchmarks.measuring import finish, in_fresh_process, load_now, print_table, read_options

IMAGE_BYTES = 2000 * 1024
IMAGES_PER_UNIT = 16


def write_sparse_tar(path: Path, num_images: int) -> None:
    """A tar of images that are holes: headers are written, payloads are skipped."""
    with path.open("wb") as file:
        for number in range(num_images):
            info = tarfile.TarInfo(f"{number:06d}.jpg")
            info.size = IMAGE_BYTES
            file.write(info.tobuf())
            file.seek(-(-IMAGE_BYTES // 512) * 512, 1)
        file.write(bytes(1024))


def resident_mb(field: str) -> float:
    """ "VmRSS" (now) or "VmHWM" (most so far) of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(path: Path) -> dict[str, float]:
    """Read the whole tar, holding one unit at a time, and say what that took."""
    settings = InputSettings(format="webdataset", uri=str(path), images_per_unit=IMAGES_PER_UNIT)
    shard = Shard(path.name, str(path), path.stat().st_size)
    before_mb = resident_mb("VmRSS")
    num_images, num_bytes, largest_unit, started_s = 0, 0, 0, time.perf_counter()
    for unit in read_units(shard, [ReadRange()], settings, StorageSettings()):
        unit_bytes = sum(len(image.data) for image in unit.images)
        num_images, num_bytes = num_images + unit.range.count, num_bytes + unit_bytes
        largest_unit = max(largest_unit, unit_bytes)
    return {
        "images": num_images,
        "read_mb": num_bytes / 2**20,
        "unit_mb": largest_unit / 2**20,
        "grown_mb": resident_mb("VmHWM") - before_mb,
        "seconds": time.perf_counter() - started_s,
    }


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    size_mb = 400 if options.quick else 2048
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tar"
        write_sparse_tar(path, size_mb * 2**20 // IMAGE_BYTES)
        figures = in_fresh_process(measure, path)
    headers = ["images", "read, MB", "a unit, MB", "memory grew by, MB", "seconds"]
    print_table(headers, [[f"{figures['images']:.0f}", *(f"{value:.1f}" for value in list(figures.values())[1:])]])
    finish(options, figures, load_before)


if __name__ == "__main__":
    main()
