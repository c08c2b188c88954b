"""Measuring one contender: every workload once to warm up, then some times, within its share of the time."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from sam3lt_ray.benchmark.contenders import Contender, ContenderName, Found, read_images
from sam3lt_ray.benchmark.workloads import Workload

MOST_REPEATS: Final = 5
_LEAST_REPEATS: Final[dict[ContenderName, int]] = {"documented": 1, "compiled": 1, "sam3lt": 3}  # while there is time
_COMPARED_IMAGES: Final = 2  # whose masks are handed back
_NO_TIME: Final = "no time left; a larger --budget-minutes measures it"

Row = dict[str, Any]


def measure_workloads(
    contender: Contender,
    name: ContenderName,
    workloads: Sequence[tuple[Workload, int]],
    *,
    image_folder: Path,
    budget_s: float,
    write: Callable[[list[Row]], None],
    say: Callable[[str], None],
) -> bool:
    """All workloads of a contender; one that fails does not stop the others.

    Args:
        contender: Who.
        name: Its name, for what is said on the way.
        workloads: What, and how many images.
        image_folder: Where the JPEG files are.
        budget_s: No workload begins later than this; the first always does.
        write: Given all rows so far after each workload, so that a process that dies leaves what it had.
        say: Told what goes on.

    Returns:
        Whether none failed.
    """
    rows: list[Row] = []
    until_s = time.perf_counter() + budget_s
    for number, (workload, count) in enumerate(workloads):
        left_s = until_s - time.perf_counter()
        if number > 0 and left_s <= 0:
            rows.append({"workload": workload.to_json(), "status": "skipped", "reason": _NO_TIME})
            continue
        say(f"{name}: {workload.name}, {count} images")
        slice_s = max(0.0, left_s) / (len(workloads) - number)
        try:
            images = read_images(image_folder, workload, count)
            row = _measure(contender, workload, images, slice_s, _LEAST_REPEATS[name], until_s)
        except Exception as error:  # out of memory, a compiler's fault: the row says so and the others go on
            traceback.print_exc()
            row = {"status": "failed", "reason": f"{type(error).__name__}: {_first_line(error)}"}
        rows.append({"workload": workload.to_json(), **row})
        write(rows)
        _release_memory()
    write(rows)
    return all(row["status"] != "failed" for row in rows)


def _measure(
    contender: Contender, workload: Workload, images: list[bytes], slice_s: float, least_repeats: int, end_s: float
) -> Row:
    began_s = time.perf_counter()
    load_s = contender.prepare(workload)
    _release_memory()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    first_began_s = time.perf_counter()
    contender.first_call(images)
    first_s = time.perf_counter() - first_began_s
    seconds: list[float] = []
    found: Found = []
    # The slice is for all of it, but what happened once (compiling) shall not cost the repeats.
    until_s = max(began_s + slice_s, time.perf_counter() + min(slice_s, 10.0))
    while len(seconds) < MOST_REPEATS:
        turn_began_s = time.perf_counter()
        done = contender.label(images)
        seconds.append(done.s_per_image)
        found = found or done.found[:_COMPARED_IMAGES]
        turn_s = time.perf_counter() - turn_began_s
        if time.perf_counter() + turn_s > (end_s if len(seconds) < least_repeats else until_s):
            break
    memory = _memory()
    parts = contender.profile(images)
    if parts is not None:
        parts = {part: value / len(images) for part, value in parts.items()}
    return {
        "status": "measured",
        "num_images": len(images),
        "ms_per_image": [1000 * value for value in seconds],
        "startup_s": {"load": load_s, "first_call": first_s},
        "memory_mb": memory,
        "parts_ms_per_image": parts,
        "facts": contender.facts(),
        "found": [{str(prompt): masks for prompt, masks in image.items()} for image in found],
    }


def _memory() -> dict[str, float] | None:
    """Most memory of tensors while labeling, and all that is held on the GPU: caches are not given back meanwhile."""
    if not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    return {"allocated_peak": torch.cuda.max_memory_allocated() / 2**20, "device_used": (total - free) / 2**20}


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
