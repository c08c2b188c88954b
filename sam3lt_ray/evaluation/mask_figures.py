"""Mask AP by pycocotools, kept quiet and freed of its traps.

The traps: an annotation with id 0 counts as unmatched, missing ``iscrowd`` or ``area`` fails far inside, an empty list
of detections cannot be loaded, and the summary is right for 100 detections only.

Lin et al., "Microsoft COCO: Common Objects in Context", https://arxiv.org/abs/1405.0312; https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam3lt_ray.errors import UsageError
from sam3lt_ray.evaluation.figures import MaskFigures


@dataclass(frozen=True, slots=True)
class MaskResult:
    """Figures over all labels, and of each label by id."""

    overall: MaskFigures
    by_label: Mapping[int, MaskFigures]


def measure_masks(
    annotations: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    sizes_hw: Mapping[int, tuple[int, int]],
    label_ids: Sequence[int],
    max_detections: int,
) -> MaskResult:
    """Average precision and recall of masks.

    Args:
        annotations: Ground truth: image_id, category_id, segmentation; iscrowd and area where known.
        detections: image_id, category_id, segmentation, area, score.
        sizes_hw: Image id -> (height, width), for every image that is measured.
        label_ids: Labels (as category ids) that are measured.
        max_detections: Best detections that count per image and label.

    Raises:
        UsageError: A segmentation of the ground truth cannot be read.
    """
    truth = _coco([_annotation(annotation, sizes_hw) for annotation in annotations], sizes_hw, label_ids)
    found = _coco([{**detection, "iscrowd": 0} for detection in detections], sizes_hw, label_ids)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = COCOeval(truth, found, "segm")
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    iou_thresholds = evaluation.params.iouThrs
    # COCOeval sorts categories; its axis k follows that order.
    by_label = {
        label_id: _figures(precision[:, :, k : k + 1], recall[:, k : k + 1], iou_thresholds)
        for k, label_id in enumerate(evaluation.params.catIds)
    }
    return MaskResult(_figures(precision, recall, iou_thresholds), by_label)


def _annotation(annotation: Mapping[str, Any], sizes_hw: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    """One ground-truth object with everything that COCOeval takes for granted."""
    run_lengths = _run_lengths(annotation, sizes_hw[annotation["image_id"]])
    area = annotation.get("area")
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "segmentation": run_lengths,
        "area": float(coco_mask.area(run_lengths)) if area is None else area,
        "iscrowd": int(bool(annotation.get("iscrowd", 0))),
    }


def _run_lengths(annotation: Mapping[str, Any], size_hw: tuple[int, int]) -> dict[str, Any]:
    """A segmentation in any of COCO's three forms (polygons, plain counts, compressed counts) as compressed counts."""
    segmentation = annotation["segmentation"]
    height, width = size_hw
    try:
        if isinstance(segmentation, list):
            return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        if tuple(segmentation["size"]) != size_hw:
            raise ValueError(f"its size is {segmentation['size']}, the image's {list(size_hw)} (height, width)")
        return dict(segmentation)
    except Exception as error:  # pycocotools raises bare Exception
        raise UsageError(
            f"The segmentation of ground-truth annotation {annotation.get('id')!r} cannot be read: {error}. Expected "
            "COCO polygons or run lengths."
        ) from error


def _coco(
    annotations: Sequence[dict[str, Any]], sizes_hw: Mapping[int, tuple[int, int]], label_ids: Sequence[int]
) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id, "height": h, "width": w} for image_id, (h, w) in sizes_hw.items()],
        "categories": [{"id": label_id, "name": str(label_id)} for label_id in label_ids],
        # New ids from 1: COCOeval marks "no match" with 0.
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _figures(
    precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64], iou_thresholds: npt.NDArray[np.float64]
) -> MaskFigures:
    """Means over what was measured.

    Args:
        precision: float64[IoU thresholds, recall steps, labels, area ranges, 1]; -1 where there is nothing to measure.
        recall: float64[IoU thresholds, labels, area ranges, 1].
        iou_thresholds: The thresholds of the first axis.
    """
    every_size = precision[:, :, :, 0]
    ap_by_size = [_mean(precision[:, :, :, size]) for size in range(1, 4)]
    return MaskFigures(
        ap=_mean(every_size),
        ap50=_mean(every_size[np.isclose(iou_thresholds, 0.5)]),
        ap75=_mean(every_size[np.isclose(iou_thresholds, 0.75)]),
        ap_small=ap_by_size[0],
        ap_medium=ap_by_size[1],
        ap_large=ap_by_size[2],
        ar=_mean(recall[:, :, 0]),
    )


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None
