"""Ground truth in COCO JSON, brought into the run's terms: its label ids, and only what can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3lt_ray.errors import UsageError
from sam3lt_ray.vocabulary.labels import Vocabulary

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class GroundTruthImage:
    """One image of the ground truth; ``image_id`` is the run's stable id, in files that we exported."""

    id: int
    file_name: str
    image_id: str | None
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Ground truth for the labels of a run.

    Attributes:
        source: Where it was read.
        images: All images.
        annotations: Annotations of measured labels; ``category_id`` is the run's label id.
        labels: Ids of the labels that are measured, with their names, in the vocabulary's order.
        labels_not_in_ground_truth: Names of labels that no category stands for.
        categories_not_in_run: Names of categories that no label stands for.
    """

    source: str
    images: tuple[GroundTruthImage, ...]
    annotations: tuple[dict[str, Any], ...]
    labels: Mapping[int, str]
    labels_not_in_ground_truth: tuple[str, ...]
    categories_not_in_run: tuple[str, ...]


def load_ground_truth(
    path: Path | str, vocabulary: Vocabulary, label_map: Mapping[str, str] | None = None
) -> GroundTruth:
    """Read a COCO instances file.

    Args:
        path: Local JSON file with images, annotations and categories.
        vocabulary: The run's labels.
        label_map: Category name -> label name, for names that differ; several categories may become one label.

    Raises:
        UsageError: The file cannot be read or is no COCO file with masks, the map names something that does not
            exist, or no category matches a label.
    """
    content = _read(path)
    label_of_category = _match_categories(content["categories"], vocabulary, label_map or {}, path)
    measured = {label_id for label_id in label_of_category.values() if label_id is not None}
    annotations = tuple(
        {**annotation, "category_id": label_id}
        for annotation in content["annotations"]
        if (label_id := _label_of(annotation, label_of_category, path)) is not None
    )
    for annotation in annotations:
        if not annotation.get("segmentation"):
            raise UsageError(
                f"{path}: annotation {annotation.get('id')!r} has no segmentation, so masks cannot be compared with "
                "it. Give ground truth with polygons or run lengths; boxes alone are not enough."
            )
    return GroundTruth(
        source=str(path),
        images=tuple(_image(image, path) for image in content["images"]),
        annotations=annotations,
        labels={label.id: label.name for label in vocabulary.labels if label.id in measured},
        labels_not_in_ground_truth=tuple(label.name for label in vocabulary.labels if label.id not in measured),
        categories_not_in_run=tuple(
            str(category["name"]) for category in content["categories"] if label_of_category[category["id"]] is None
        ),
    )


def _read(path: Path | str) -> dict[str, list[dict[str, Any]]]:
    if "://" in str(path):
        raise UsageError(f"{path}: ground truth is read from a local file. Copy it here first.")
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: the ground truth cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:
        raise UsageError(f"{path}: the ground truth is not valid JSON ({error}).") from error
    missing = [
        name
        for name in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(name), list)
    ]
    if missing:
        raise UsageError(
            f"{path}: expected a COCO instances file, but it has no list {' and no list '.join(map(repr, missing))}."
        )
    return {name: content[name] for name in ("images", "annotations", "categories")}


def _match_categories(
    categories: Sequence[Mapping[str, Any]], vocabulary: Vocabulary, label_map: Mapping[str, str], path: Path | str
) -> dict[int, int | None]:
    """Category id -> label id, None for a category that is not measured."""
    if any("id" not in category or "name" not in category for category in categories):
        raise UsageError(f"{path}: every category needs an id and a name.")
    label_ids = {label.name: label.id for label in vocabulary.labels}
    names = [str(category["name"]) for category in categories]
    for category_name, label_name in label_map.items():
        if category_name not in names:
            raise UsageError(f"The label map names category {category_name!r}; {path} has {_some(names)}.")
        if label_name not in label_ids:
            raise UsageError(f"The label map names label {label_name!r}; the run has {_some(list(label_ids))}.")
    matched = {
        category["id"]: label_ids.get(label_map.get(name, name))
        for category, name in zip(categories, names, strict=True)
    }
    if all(label_id is None for label_id in matched.values()):
        raise UsageError(
            f"No category of {path} has the name of a label. Categories: {_some(names)}. "
            f"Labels: {_some(list(label_ids))}. Say which category is which label: "
            "--map CATEGORY=LABEL (from Python: label_map)."
        )
    return matched


def _label_of(
    annotation: Mapping[str, Any], label_of_category: Mapping[int, int | None], path: Path | str
) -> int | None:
    try:
        return label_of_category[annotation["category_id"]]
    except KeyError:
        raise UsageError(
            f"{path}: annotation {annotation.get('id')!r} is of category {annotation.get('category_id')!r}, which is "
            "not in the file's categories."
        ) from None


def _image(image: Mapping[str, Any], path: Path | str) -> GroundTruthImage:
    missing = [name for name in ("id", "file_name", "height", "width") if image.get(name) is None]
    if missing:
        raise UsageError(
            f"{path}: image {image.get('file_name', image.get('id'))!r} has no {' and no '.join(missing)}; every image "
            "needs id, file_name, height and width."
        )
    # Our own exports say which image of the run they mean, also where file names repeat.
    exported = image.get("sam3lt")
    return GroundTruthImage(
        id=image["id"],
        file_name=str(image["file_name"]),
        image_id=exported.get("image_id") if isinstance(exported, dict) else None,
        size_hw=(int(image["height"]), int(image["width"])),
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(repr(name) for name in names[:_MAX_NAMED]) + more if names else "none"
