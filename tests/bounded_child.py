"""``python -m tests.bounded_child JOB...``: what hostile files do to a process of their own, and what memory they take.

A job is ``FORMAT:PATH``: "image" decodes one file, "webdataset" and "parquet" read a shard. Prints a line of JSON for
each: the error kinds in order, the last message, and by how many MB the process had grown at most.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import ImageError
from sam3lt_ray.images.decode import decode_rgb
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import ReadRange, Shard
from tests.peak_memory import PeakMemory

MAX_PIXELS = InputSettings.model_fields["max_pixels"].default
# So that a file which does succeed takes this process down and not the machine.
_ADDRESS_SPACE_BYTES = 12 * 2**30


def _outcome(kind: str, path: str) -> tuple[list[str | None], str]:
    if kind == "image":
        try:
            decode_rgb(Path(path).read_bytes(), max_pixels=MAX_PIXELS)
        except ImageError as error:
            return [error.kind], error.message
        return [None], ""
    size_bytes = Path(path).stat().st_size
    settings = InputSettings(format=kind, uri=path)  # type: ignore[arg-type]
    kinds: list[str | None] = []
    message = ""
    for unit in read_units(Shard("shard", path, size_bytes, None), [ReadRange()], settings, StorageSettings()):
        for image in unit.images:
            kinds.append(image.error_kind)
            message = image.error_message or message
    return kinds, message


def main() -> None:
    """Do all jobs one after the other."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    for job in sys.argv[1:]:
        kind, _, path = job.partition(":")
        memory = PeakMemory()
        kinds, message = _outcome(kind, path)
        print(json.dumps({"kinds": kinds, "message": message, "grown_mb": memory.grown_mb()}), flush=True)


if __name__ == "__main__":
    main()
