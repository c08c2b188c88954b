"""COCO export: a run as the JSON files that training and evaluation tools read.

* ``dataset``: exports/coco/instances.json with images, annotations and categories. What pycocotools' ``COCO`` loads.
* ``results``: exports/coco/results.json, a list of detections as ``COCO.loadRes`` takes it, and beside it
  exports/coco/images.json with the images and categories that its ids mean.

Images that could not be labeled are counted, not listed: as an image without annotations they would read as "nothing
is in it". Everything is written piece by piece; memory does not grow with the run.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.masks import rle
from sam3lt_ray.records import Instance
from sam3lt_ray.storage.store import RunStore

DATASET_PATH: Final = "exports/coco/instances.json"
RESULTS_PATH: Final = "exports/coco/results.json"
IMAGES_PATH: Final = "exports/coco/images.json"

CocoKind = Literal["dataset", "results"]


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export wrote.

    Attributes:
        locations: Full locations of the written files, the main one first.
        images: Listed images.
        annotations: Listed annotations or detections.
        skipped_images: Images left out because they could not be labeled.
        below_threshold: Stored instances left out because of their score.
        partly_asked_images: Listed images that were not asked every label yet; each says so.
    """

    locations: tuple[str, ...]
    images: int
    annotations: int
    skipped_images: int
    below_threshold: int
    partly_asked_images: int


def export_coco(
    reader: RunReader,
    store: RunStore,
    *,
    kind: CocoKind,
    score_threshold: float | None = None,
    path: str | None = None,
) -> ExportSummary:
    """Write a run as COCO JSON, replacing an earlier export.

    Args:
        reader: The run.
        store: Where to write; normally the run directory.
        kind: "dataset" or "results".
        score_threshold: Instances below it are left out, for labels without a threshold of their own. None: for a
            dataset the run's ``labeling.score_threshold``; for results nothing is left out, not even below a label's
            own threshold, because a precision-recall curve needs the low scores too.
        path: Name of the main file in ``store``; the images of results stand beside it ("a.json": "a.images.json").
            None: the names above.

    Raises:
        InputError: There is no run.
        StorageError: The files could not be written.
    """
    keep_all = kind == "results" and score_threshold is None
    thresholds = {} if keep_all else reader.thresholds(score_threshold)
    with tempfile.TemporaryDirectory(prefix="sam3lt-export-") as folder:
        writer = _CocoFiles(Path(folder))
        tally = writer.write_pieces(reader, thresholds, kind)
        header = _header(reader, tally, thresholds)
        files = writer.assemble_dataset(header) if kind == "dataset" else writer.assemble_results(header)
        if path is not None:
            names = (path, f"{path.removesuffix('.json')}.images.json")
            files = dict(zip(names, files.values(), strict=False))
        for name, file in files.items():
            store.replace_from_file(name, file)
    return ExportSummary(
        locations=tuple(store.location(name) for name in files),
        images=tally.images,
        annotations=tally.annotations,
        skipped_images=tally.skipped_images,
        below_threshold=tally.below_threshold,
        partly_asked_images=tally.partly_asked_images,
    )


@dataclass(slots=True)
class _Tally:
    images: int = 0
    annotations: int = 0
    skipped_images: int = 0
    below_threshold: int = 0
    partly_asked_images: int = 0


class _CocoFiles:
    """The pieces of the JSON files on local disk: an annotation must be written long before the last image is known."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images = folder / "images.part"
        self._annotations = folder / "annotations.part"

    def write_pieces(self, reader: RunReader, thresholds: Mapping[int, float], kind: CocoKind) -> _Tally:
        tally = _Tally()
        label_ids = reader.vocabulary().label_ids
        with ExitStack() as stack:
            images = stack.enter_context(self._images.open("w", encoding="utf-8"))
            annotations = stack.enter_context(self._annotations.open("w", encoding="utf-8"))
            # Numbered over all images, so that an image keeps its id when another one's error is mended.
            for image_number, image in enumerate(reader.iter_images(), start=1):
                if image.status != "ok":
                    tally.skipped_images += 1
                    continue
                not_asked = [label_id for label_id in label_ids if label_id not in image.presence]
                tally.partly_asked_images += bool(not_asked)
                _write_item(images, _image(image_number, image, not_asked), is_first=tally.images == 0)
                tally.images += 1
                kept = [found for found in image.instances if found.score >= thresholds.get(found.label_id, 0.0)]
                tally.below_threshold += len(image.instances) - len(kept)
                for detection in _detections(image_number, kept):
                    if kind == "dataset":
                        detection = {"id": tally.annotations + 1, **detection, "iscrowd": 0}
                    _write_item(annotations, detection, is_first=tally.annotations == 0)
                    tally.annotations += 1
        return tally

    def assemble_dataset(self, header: Mapping[str, object]) -> dict[str, Path]:
        target = self._folder / "instances.json"
        with target.open("w", encoding="utf-8") as file:
            self._write_dataset(file, header, self._annotations)
        return {DATASET_PATH: target}

    def assemble_results(self, header: Mapping[str, object]) -> dict[str, Path]:
        results, images = self._folder / "results.json", self._folder / "images.json"
        with results.open("w", encoding="utf-8") as file:
            _write_list(file, self._annotations)
        with images.open("w", encoding="utf-8") as file:
            self._write_dataset(file, header, None)
        return {RESULTS_PATH: results, IMAGES_PATH: images}

    def _write_dataset(self, file: TextIO, header: Mapping[str, object], annotations: Path | None) -> None:
        file.write("{\n")
        for name, value in header.items():
            file.write(f"{json.dumps(name)}: {_json(value)},\n")
        file.write('"images": ')
        _write_list(file, self._images)
        file.write(',\n"annotations": ')
        _write_list(file, annotations)
        file.write("\n}\n")


def _header(reader: RunReader, tally: _Tally, thresholds: Mapping[int, float]) -> dict[str, object]:
    run = reader.run
    info = {
        "description": "Instance masks predicted by sam3lt_ray",
        "version": str(run.get("format_version", "")),
        "sam3lt": {
            "run": reader.store.uri,
            "fingerprint": run.get("fingerprint"),
            "model": run.get("model"),
            "score_thresholds": {str(label_id): value for label_id, value in thresholds.items()},
            "images_without_labels": tally.skipped_images,
        },
    }
    categories = [
        {"id": label.id, "name": label.name, "supercategory": label.supercategory or ""}
        for label in reader.vocabulary().labels
    ]
    return {"info": info, "licenses": [], "categories": categories}


def _image(image_number: int, image: LabeledImage, not_asked: list[int]) -> dict[str, object]:
    """A label that was not asked must not read as one that is not there: the image says so."""
    place: dict[str, object] = {"image_id": image.image_id, "shard": image.shard, "index": image.index}
    return {
        "id": image_number,
        "file_name": image.key,
        "width": image.width,
        "height": image.height,
        "sam3lt": place | ({"category_ids_not_asked": not_asked} if not_asked else {}),
    }


def _detections(image_number: int, instances: list[Instance]) -> Iterator[dict[str, Any]]:
    """COCO's box is the mask's; the model's own box, which may differ, is kept beside it."""
    boxes_xywh = rle.boxes_xywh([found.mask for found in instances]).tolist()
    for found, box_xywh in zip(instances, boxes_xywh, strict=True):
        has_box = all(math.isfinite(value) for value in found.box_xyxy)
        yield {
            "image_id": image_number,
            "category_id": found.label_id,
            "segmentation": rle.to_coco(found.mask),
            "area": found.area,
            "bbox": box_xywh,
            "score": found.score,
            "sam3lt": {
                "box_xyxy": list(found.box_xyxy) if has_box else None,
                "prompt_index": found.prompt_index,
            },
        }


def _write_item(file: TextIO, value: Mapping[str, object], *, is_first: bool) -> None:
    file.write(("" if is_first else ",\n") + _json(value))


def _write_list(file: TextIO, items: Path | None) -> None:
    file.write("[\n")
    if items is not None:
        with items.open(encoding="utf-8") as source:
            shutil.copyfileobj(source, file)
    file.write("\n]")


def _json(value: object) -> str:
    """NaN and infinity are no JSON; better to stop than to write a file that nothing can read."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
