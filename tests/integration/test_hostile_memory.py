"""Files that claim or unpack to gigabytes end as error rows, in memory that does not follow their claims."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import hostile_files as hostile

REPOSITORY = Path(__file__).resolve().parents[2]
MB = 2**20

# Name: what writes the file, the error kinds, and the MB by which the process may grow at most.
JOBS: dict[str, tuple[Callable[[Path], Any], list[str | None], float]] = {
    "image:huge.png": (lambda path: path.write_bytes(hostile.png(60_000, 60_000)), ["too_large"], 20),
    "image:text.png": (lambda path: path.write_bytes(hostile.png_with_text(300 * MB)), ["corrupt"], 20),
    "image:data.png": (lambda path: path.write_bytes(hostile.png(8, 6, unpacked_bytes=300 * MB)), [None], 20),
    "image:wide.tif": (
        lambda path: path.write_bytes(hostile.tiff({256: 2**31 - 1, 257: 2**31 - 1})),
        ["too_large"],
        20,
    ),
    "image:strip.tif": (lambda path: path.write_bytes(hostile.tiff_bomb(300 * MB)), [None], 20),
    "image:huge.webp": (lambda path: path.write_bytes(hostile.webp(16_383)), ["too_large"], 20),
    # Transparent, and as large as is allowed with a quarter of the default: 12 bytes per pixel, not 19.
    "image:full.png": (
        lambda path: path.write_bytes(hostile.png(7_000, 7_000, unpacked_bytes=188 * MB, alpha=True)),
        [None],
        12 * 49 + 40,
    ),
    "webdataset:pax.tar": (lambda path: hostile.write_pax_flood(path, 20), ["truncated_shard"], 40),
    "webdataset:claim.tar": (
        lambda path: path.write_bytes(hostile.tar_header("a.jpg", 50 * 2**30) + bytes(1000)),
        ["too_large", "truncated_shard"],
        20,
    ),
    "webdataset:names.tar": (lambda path: hostile.write_long_names(path, 12), ["unsupported", None] * 6, 60),
    "parquet:path.parquet": (lambda path: hostile.write_repeated_path(path, 4 * MB, 60), ["unsupported"] * 60, 60),
    "parquet:zeros.parquet": (lambda path: hostile.write_parquet_of_zeros(path, 300 * MB), ["corrupt"], 40),
    # Two units of 128 MB are always held: the one that is built and the one that is used.
    "parquet:value.parquet": (lambda path: hostile.write_repeated_value(path, 8 * MB, 100), [None] * 100, 400),
    "parquet:prefix.parquet": (lambda path: hostile.write_repeated_prefix(path, 8 * MB, 100), [None] * 100, 400),
    "parquet:nulls.parquet": (lambda path: hostile.write_nulls(path, 5_000_000), ["truncated_shard"], 40),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_follow_claims(tmp_path: Path) -> None:
    arguments = []
    for job, (write, _, _) in JOBS.items():
        kind, _, name = job.partition(":")
        write(tmp_path / name)
        arguments.append(f"{kind}:{tmp_path / name}")
    command = [sys.executable, "-m", "tests.bounded_child", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    found = {job: (answer["kinds"], answer["grown_mb"]) for job, answer in zip(JOBS, answers, strict=True)}
    assert {job: kinds for job, (kinds, _) in found.items()} == {job: kinds for job, (_, kinds, _) in JOBS.items()}
    too_much = {job: grown_mb for job, (_, grown_mb) in found.items() if grown_mb > JOBS[job][2]}
    assert too_much == {}
