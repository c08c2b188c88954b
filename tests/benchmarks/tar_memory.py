"""Resident memory while a large tar is read: how far it grows beyond the units in flight.

    python -m tests.benchmarks.tar_memory [--size-mb 2048] [--image-kb 2000] [--images-per-unit 64]

The tar is written sparse, so it takes no room on disk; it is read through the product's own reader, by a process whose
high-water mark (VmHWM) is compared with what it held before it opened the shard. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
import time
from pathlib import Path

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import ReadRange, Shard


def write_sparse_tar(path: Path, num_images: int, image_bytes: int) -> None:
    """A tar of images that are holes: headers are written, payloads are skipped."""
    with path.open("wb") as file:
        for number in range(num_images):
            info = tarfile.TarInfo(f"{number:06d}.jpg")
            info.size = image_bytes
            file.write(info.tobuf())
            file.seek(-(-image_bytes // 512) * 512, 1)
        file.write(bytes(1024))


def resident_mb(field: str) -> float:
    """ "VmRSS" (now) or "VmHWM" (most so far) of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(path: Path, images_per_unit: int) -> dict[str, float]:
    """Read the whole tar, holding one unit at a time, and say what that took."""
    settings = InputSettings(format="webdataset", uri=str(path), images_per_unit=images_per_unit)
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--size-mb", type=int, default=2048)
    parser.add_argument("--image-kb", type=int, default=2000)
    parser.add_argument("--images-per-unit", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tar"
        image_bytes = arguments.image_kb * 1024
        write_sparse_tar(path, arguments.size_mb * 2**20 // image_bytes, image_bytes)
        print(json.dumps({name: round(value, 2) for name, value in measure(path, arguments.images_per_unit).items()}))


if __name__ == "__main__":
    main()
