"""Small committed runs without Ray and torch: label rows in, a run directory out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import ImageError
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.labels.rows import Provenance, build_rows, encode_unit_file
from sam3lt_ray.masks import rle
from sam3lt_ray.records import EncodedImage, ImageLabels, Instance, Unit, UnitRange, image_id
from sam3lt_ray.storage.ledger import UnitFile, unit_path
from sam3lt_ray.storage.run_directory import label_prompts
from sam3lt_ray.storage.store import RunStore, open_store
from sam3lt_ray.vocabulary.labels import Label

FINGERPRINT = "f00d" * 16
MODEL = {"checkpoint": "demo", "revision": None, "model_type": "sam3_lite_text", "files": {"model.safetensors": "ab12"}}


def make_instance(
    mask_hw: np.ndarray, *, label_id: int, score: float, prompt_index: int = 0, box_margin: float = 0.25
) -> Instance:
    """An instance with the given mask; the model's box is a little larger than the mask's."""
    mask = rle.encode_mask(mask_hw)
    x, y, width, height = rle.box_xywh(mask)
    box = (x - box_margin, y - box_margin, x + width + box_margin, y + height + box_margin)
    return Instance(label_id, prompt_index, float(np.float32(score)), box, rle.area(mask), mask)


def make_image(
    key: str,
    *,
    index: int = 0,
    shard: str = "shard-0.tar",
    size_hw: tuple[int, int] = (48, 80),
    presence: Mapping[int, float] | None = None,
    saturated: Sequence[int] = (),
    instances: Sequence[Instance] = (),
) -> LabeledImage:
    """An image that was labeled. Presence must name every label of the layer."""
    return LabeledImage(
        image_id=image_id(shard, key),
        shard=shard,
        index=index,
        key=key,
        width=size_hw[1],
        height=size_hw[0],
        status="ok",
        error_kind=None,
        error_message=None,
        presence={label_id: float(np.float16(value)) for label_id, value in (presence or {}).items()},
        saturated=tuple(saturated),
        instances=tuple(instances),
    )


def make_failed_image(
    key: str,
    *,
    index: int = 0,
    shard: str = "shard-0.tar",
    kind: str = "corrupt",
    message: str = "Damaged.",
) -> LabeledImage:
    """An image that could not be labeled."""
    image = make_image(key, index=index, shard=shard)
    return dataclasses.replace(image, width=None, height=None, status="error", error_kind=kind, error_message=message)


def make_run(
    folder: Path,
    images: Sequence[LabeledImage],
    labels: Sequence[Label],
    *,
    layer: str = "000",
    images_per_unit: int = 4,
    bytes_per_image: int | None = None,
    config: Mapping[str, object] | None = None,
) -> RunStore:
    """Write a run directory; called again with another layer, that layer is added.

    Args:
        folder: The run directory.
        images: In order within each shard; indexes must run on from 0.
        labels: The layer's labels; ``presence`` of every image names exactly these.
        layer: Name of the layer.
        images_per_unit: Images per Parquet file.
        bytes_per_image: What an image takes of its shard, in formats that are read by offset.
        config: Resolved config for run.json.
    """
    store = open_store(str(folder), StorageSettings())
    write_run(
        store,
        images,
        labels,
        layer=layer,
        images_per_unit=images_per_unit,
        bytes_per_image=bytes_per_image,
        config=config,
    )
    return store


def write_run(
    store: RunStore,
    images: Sequence[LabeledImage],
    labels: Sequence[Label],
    *,
    layer: str = "000",
    images_per_unit: int = 4,
    bytes_per_image: int | None = None,
    config: Mapping[str, object] | None = None,
) -> None:
    """Like :func:`make_run`, into a store of any kind."""
    _write_run_files(store, labels, layer, config or {"labeling": {"score_threshold": 0.5}})
    provenance = Provenance(FINGERPRINT, MODEL, tuple((label.id, label.name) for label in labels))
    for shard in dict.fromkeys(image.shard for image in images):
        of_shard = [image for image in images if image.shard == shard]
        assert [image.index for image in of_shard] == list(range(len(of_shard)))
        for first in range(0, len(of_shard), images_per_unit):
            chosen = of_shard[first : first + images_per_unit]
            unit_range = UnitRange(first, len(chosen), first + len(chosen) == len(of_shard))
            encoded = tuple(EncodedImage(image.index, image.key) for image in chosen)
            offset = None if bytes_per_image is None or unit_range.is_last else bytes_per_image * unit_range.end
            unit = Unit(shard, unit_range, encoded, offset)
            rows = build_rows(unit, [_result(image, labels) for image in chosen], loose_files=False)
            data = encode_unit_file(unit, rows, provenance)
            assert store.create(unit_path(layer, shard, unit_range), data)


def write_retry(
    store: RunStore, unit: UnitFile, number: int, images: Sequence[LabeledImage], labels: Sequence[Label]
) -> None:
    """Commit a retry of a unit with the rows of some of its images."""
    provenance = Provenance(FINGERPRINT, MODEL, tuple((label.id, label.name) for label in labels))
    encoded = tuple(EncodedImage(image.index, image.key) for image in images)
    again = Unit(images[0].shard, unit.range, encoded)
    rows = build_rows(again, [_result(image, labels) for image in images], loose_files=False)
    assert store.create(unit.retry_path(number), encode_unit_file(again, rows, provenance))


def make_reader(folder: Path, images: Sequence[LabeledImage], labels: Sequence[Label]) -> RunReader:
    """A reader of a run with one layer."""
    return RunReader(make_run(folder, images, labels))


def _result(image: LabeledImage, labels: Sequence[Label]) -> ImageLabels | ImageError:
    if image.status == "error":
        return ImageError(image.error_kind, image.error_message)  # type: ignore[arg-type]
    presence = np.array([image.presence[label.id] for label in labels], dtype=np.float32)
    return ImageLabels(image.width or 0, image.height or 0, presence, image.saturated, image.instances)


def _write_run_files(store: RunStore, labels: Sequence[Label], layer: str, config: Mapping[str, object]) -> None:
    entries = json.loads(store.read("vocabulary.json"))["labels"] if store.exists("vocabulary.json") else []
    entries += [label.to_json() for label in labels if label.id not in {entry["id"] for entry in entries}]
    store.replace("vocabulary.json", json.dumps({"labels": entries}).encode())
    if layer != "000":
        asked = {"labels": [label.to_json() for label in labels]}
        store.create(f"layers/{layer}.json", json.dumps(asked).encode())
    run = {
        "format_version": 2,
        "identity": {"labels": label_prompts(labels)},
        "fingerprint": FINGERPRINT,
        "config": config,
        "model": MODEL,
        "packages": {"sam3lt_ray": "0.1.0", "torch": "2.13.0"},
    }
    store.create("run.json", json.dumps(run).encode())
