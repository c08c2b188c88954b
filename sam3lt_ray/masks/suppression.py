"""One object, found by two phrases for the same label, is one instance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sam3lt_ray.masks import rle
from sam3lt_ray.records import Instance, Rle


def merge_prompt_instances(instances: Sequence[Instance], iou_threshold: float) -> tuple[Instance, ...]:
    """Merge what different prompts of one label found in one image: greedy, best score first.

    An instance is dropped when its mask overlaps a kept one of another prompt by ``iou_threshold`` or more. Instances
    of the same prompt never drop each other: the model itself decided that they are different objects.

    Args:
        instances: Instances of one label in one image, in any order.
        iou_threshold: Mask IoU in (0, 1] from which two instances are one object.

    Returns:
        The kept instances, best first; the same for every order of the input.

    Raises:
        ValueError: The instances belong to more than one label.
    """
    if len({instance.label_id for instance in instances}) > 1:
        raise ValueError("only instances of one label can be merged")
    ordered = sorted(instances, key=_rank)
    prompts = np.array([instance.prompt_index for instance in ordered])
    if len(np.unique(prompts)) < 2:
        return tuple(ordered)
    masks = [instance.mask for instance in ordered]
    rivals = _may_overlap(masks, iou_threshold) & (prompts[:, None] != prompts[None, :])
    kept: list[int] = []
    for position in range(len(ordered)):
        close = [masks[other] for other in kept if rivals[position, other]]
        if not close or rle.iou([masks[position]], close).max() < iou_threshold:
            kept.append(position)
    return tuple(ordered[position] for position in kept)


def _rank(instance: Instance) -> tuple[float, int, tuple[float, ...], str]:
    """Score first; the rest only makes ties independent of the input's order."""
    return -instance.score, instance.prompt_index, instance.box_xyxy, instance.mask.counts


def _may_overlap(masks: Sequence[Rle], iou_threshold: float) -> npt.NDArray[np.bool_]:
    """Pairs whose IoU can reach the threshold judging by boxes and areas alone, bool[N, N]; cheap, never too strict."""
    boxes = rle.boxes_xywh(masks)
    areas = rle.areas(masks)
    left_top, right_bottom = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    overlap = np.minimum(right_bottom[:, None], right_bottom[None]) - np.maximum(left_top[:, None], left_top[None])
    shared = np.minimum(overlap.clip(0).prod(axis=2), np.minimum(areas[:, None], areas[None]))
    largest = np.maximum(areas[:, None], areas[None])
    possible: npt.NDArray[np.bool_] = (shared > 0) & (shared >= iou_threshold * largest * (1 - 1e-9))
    return possible
