"""A run against ground truth: pycocotools' mask AP, and whether the run knows what is not in an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam3lt_ray.errors import UsageError
from sam3lt_ray.evaluation.figures import EvaluationReport, LabelFigures
from sam3lt_ray.evaluation.ground_truth import GroundTruth, GroundTruthImage, load_ground_truth
from sam3lt_ray.evaluation.mask_figures import measure_masks
from sam3lt_ray.evaluation.presence import PresenceTally
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.masks import rle


def evaluate(
    reader: RunReader,
    ground_truth: Path | str,
    *,
    label_map: Mapping[str, str] | None = None,
    max_detections: int = 100,
    score_threshold: float | None = None,
) -> EvaluationReport:
    """Measure a run against COCO ground truth. Memory grows with the ground truth, not with the run.

    Images are matched by file name (the key under which the image was read), categories by name. Every stored
    instance takes part in AP: those under the floor were never stored, which can only lower AP.

    Args:
        reader: The run.
        ground_truth: Local COCO instances file with polygons or run lengths.
        label_map: Category name -> label name, for names that differ.
        max_detections: Best instances that count per image and label.
        score_threshold: For the presence figures: from which score on an instance counts as said to be there. None:
            the run's ``labeling.score_threshold``.

    Raises:
        UsageError: The ground truth cannot be used, or nothing of it matches the run.
    """
    truth = load_ground_truth(ground_truth, reader.vocabulary(), label_map)
    score_threshold = reader.default_score_threshold() if score_threshold is None else score_threshold
    index = _ImageIndex(truth)
    present = _present_labels(truth)
    tally = PresenceTally(tuple(truth.labels), score_threshold)
    matched = _Matched()
    example_key: str | None = None
    for image in reader.iter_images():
        example_key = example_key or image.key
        known = index.find(image)
        if known is None:
            matched.not_in_ground_truth += 1
            continue
        _check_match(image, known, matched, truth.source)
        matched.add(image, known, truth.labels)
        if image.status == "ok":
            tally.add(image, present.get(known.id, frozenset()))
    _require_images(matched, truth, example_key)

    annotations = [annotation for annotation in truth.annotations if annotation["image_id"] in matched.sizes_hw]
    masks = measure_masks(annotations, matched.detections, matched.sizes_hw, tuple(truth.labels), max_detections)
    objects = dict.fromkeys(truth.labels, 0)
    for annotation in annotations:
        objects[annotation["category_id"]] += 0 if annotation.get("iscrowd") else 1
    return EvaluationReport(
        ground_truth=truth.source,
        images=len(matched.sizes_hw),
        failed_images=matched.failed,
        images_not_in_run=len(truth.images) - len(matched.sizes_hw),
        images_not_in_ground_truth=matched.not_in_ground_truth,
        objects=sum(objects.values()),
        detections=len(matched.detections),
        max_detections=max_detections,
        score_threshold=score_threshold,
        labels_not_in_ground_truth=truth.labels_not_in_ground_truth,
        categories_not_in_run=truth.categories_not_in_run,
        masks=masks.overall,
        presence=tally.overall(),
        labels=tuple(
            LabelFigures(label_id, name, objects[label_id], masks.by_label[label_id], tally.of_label(label_id))
            for label_id, name in truth.labels.items()
        ),
    )


class _ImageIndex:
    """Finds the ground truth of an image by its stable id where the file tells it, else by its file name."""

    def __init__(self, truth: GroundTruth) -> None:
        self._by_id = {image.image_id: image for image in truth.images if image.image_id is not None}
        self._by_name: dict[str, GroundTruthImage] = {}
        for image in truth.images:
            if image.image_id is None and self._by_name.setdefault(image.file_name, image) is not image:
                raise UsageError(
                    f"{truth.source}: two images are called {image.file_name!r}, so it is unclear which one the run "
                    "means. File names must be unique."
                )

    def find(self, image: LabeledImage) -> GroundTruthImage | None:
        return self._by_id.get(image.image_id) or self._by_name.get(image.key)


@dataclass(slots=True)
class _Matched:
    """What the run says about the images that have ground truth."""

    sizes_hw: dict[int, tuple[int, int]] = field(default_factory=dict)
    detections: list[dict[str, Any]] = field(default_factory=list)
    failed: int = 0
    not_in_ground_truth: int = 0

    def add(self, image: LabeledImage, known: GroundTruthImage, labels: Mapping[int, str]) -> None:
        self.sizes_hw[known.id] = known.size_hw
        self.failed += image.status != "ok"
        self.detections.extend(_detections(image, known.id, labels))


def _detections(image: LabeledImage, ground_truth_id: int, labels: Mapping[int, str]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": ground_truth_id,
            "category_id": instance.label_id,
            "segmentation": rle.to_coco(instance.mask),
            "area": instance.area,
            "score": instance.score,
        }
        for instance in image.instances
        if instance.label_id in labels
    ]


def _present_labels(truth: GroundTruth) -> dict[int, frozenset[int]]:
    """Image id -> ids of the labels that are there; a crowd region counts as there."""
    present: dict[int, set[int]] = {}
    for annotation in truth.annotations:
        present.setdefault(annotation["image_id"], set()).add(annotation["category_id"])
    return {image_id: frozenset(label_ids) for image_id, label_ids in present.items()}


def _check_match(image: LabeledImage, known: GroundTruthImage, matched: _Matched, source: str) -> None:
    if known.id in matched.sizes_hw:
        raise UsageError(
            f"Two images of the run are called {image.key!r} (the second one in shard {image.shard!r}), so {source} "
            "cannot tell which one it means. Evaluate runs in which file names are unique."
        )
    if image.status == "ok" and known.size_hw != (image.height, image.width):
        raise UsageError(
            f"{source} says that {image.key!r} is {known.size_hw[1]} x {known.size_hw[0]} pixels, but it was labeled "
            f"as {image.width} x {image.height}. Labels are in the image as displayed, after its EXIF orientation; "
            "the ground truth must be too, and be made for the same files."
        )


def _require_images(matched: _Matched, truth: GroundTruth, example_key: str | None) -> None:
    if matched.sizes_hw:
        return
    if example_key is None:
        raise UsageError("The run holds no labels yet, so there is nothing to evaluate.")
    names: Sequence[str] = [image.file_name for image in truth.images]
    example = f"has {names[0]!r}, for example" if names else "has no images"
    raise UsageError(
        f"No image of {truth.source} is in the run: the file {example}, the run {example_key!r}. The file_name of an "
        "image must be its key: the name inside its shard with its extension, or the path below the input folder."
    )
