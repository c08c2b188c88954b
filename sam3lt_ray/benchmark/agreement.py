"""Whether the contenders found the same masks: otherwise they did not do the same work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
from pycocotools import mask as coco_mask

from sam3lt_ray.benchmark.workloads import INSTANCES, Workload, present_prompts

LEAST_IOU: Final = 0.999

Image = Mapping[str, Sequence[Mapping[str, Any]]]


def compare(
    found: Mapping[str, Sequence[Image]], workload: Workload, asked: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Compares every contender with the rule and with every other one.

    Args:
        found: Of each contender: by image and prompt the masks.
        workload: Says which prompts have instances.
        asked: Prompts of contenders that were asked a subset only.

    Returns:
        ``ok``, ``least_iou`` (None where nothing could be compared), ``compared`` masks, ``identical`` ones among
        them, and ``problems`` in words.
    """
    problems: list[str] = []
    present = set(present_prompts(workload.num_prompts, workload.num_present))
    for name, images in found.items():
        expected = present & set(asked.get(name, range(workload.num_prompts)))
        for number, image in enumerate(images):
            counts = {int(prompt): len(masks) for prompt, masks in image.items() if masks}
            if counts != dict.fromkeys(expected, INSTANCES):
                problems.append(f"{name}, image {number}: {_differences(counts, expected)}")
    least, compared, identical = 1.0, 0, 0
    for one, other in combinations(found, 2):
        for number, (image, other_image) in enumerate(zip(found[one], found[other], strict=False)):
            for prompt in sorted(image.keys() & other_image.keys(), key=int):
                ious, same = _match(image[prompt], other_image[prompt])
                compared, identical = compared + len(ious), identical + same
                least = min([least, *ious])
                if any(iou < LEAST_IOU for iou in ious):
                    problems.append(f"{one} and {other}, image {number}, prompt {prompt}: mask IoU {min(ious):.4f}")
    return {
        "ok": not problems,
        "least_iou": least if compared else None,
        "compared": compared,
        "identical": identical,
        "problems": problems[:20],
    }


def _differences(counts: Mapping[int, int], expected: set[int]) -> str:
    wrong = {p: counts.get(p, 0) for p in sorted(expected | counts.keys())}
    wrong = {p: n for p, n in wrong.items() if n != (INSTANCES if p in expected else 0)}
    shown = ", ".join(f"{count} of prompt {prompt}" for prompt, count in list(wrong.items())[:4])
    return f"{len(wrong)} prompts with another number of instances than forced ({shown})"


def _match(masks: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> tuple[list[float], int]:
    """IoU of each mask with the best partner among the others, in any order; and how many have an identical one."""
    if not masks or not others:
        return [], 0
    same = sum(mask["counts"] in {other["counts"] for other in others} for mask in masks)
    if masks[0]["size"] != others[0]["size"]:
        return [0.0], same
    ious = coco_mask.iou([_as_bytes(mask) for mask in masks], [_as_bytes(other) for other in others], [0] * len(others))
    return [float(best) for best in np.asarray(ious).max(axis=1)], same


def _as_bytes(mask: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": mask["size"], "counts": mask["counts"].encode("ascii")}
