"""Writes rendered scenes as WebDataset shards with their ground truth as a COCO dataset."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sam3lt_ray.demo.arrays import BoolArray
from sam3lt_ray.demo.prompts import parse_phrase
from sam3lt_ray.demo.scenes import Scene, SceneObject, render_scene
from sam3lt_ray.errors import UsageError

_GROUND_TRUTH_NAME = "ground_truth.json"
_SHARDS_FOLDER = "shards"


@dataclass(frozen=True, slots=True)
class DemoDataset:
    """Where a demo dataset lies.

    Attributes:
        shards_folder: Folder that holds nothing but the shards: what a run's `input.uri` may name.
        shard_paths: The .tar files, in order.
        ground_truth: COCO dataset JSON; images are joined by `file_name`, which is "<key>.jpg".
    """

    shards_folder: Path
    shard_paths: tuple[Path, ...]
    ground_truth: Path


def write_demo_dataset(
    folder: Path, num_scenes: int, labels: Sequence[str], seed: int, scenes_per_shard: int = 50
) -> DemoDataset:
    """Renders scenes and writes them below `folder`; the same arguments write the same bytes.

    Each scene is a `<key>.jpg` with a `<key>.json` beside it that lists its objects; keys are unique over all shards.
    Files appear under their names only when they are whole, the ground truth last. A shard that is there already is
    left as it is, so that a run which labeled it goes on; more scenes of the same series may add shards.

    Args:
        folder: Made if it does not exist.
        num_scenes: At least 1.
        labels: Category names of the ground truth, in the order of their ids from 1. An object is annotated once under
            each label that names it; a label that is no phrase of the demo's language has no annotations.
        seed: The series of scenes (see `scenes.render_scene`).
        scenes_per_shard: At least 1.

    Raises:
        ValueError: A count is smaller than 1.
        UsageError: A shard of other scenes is there, which stays as it is; or nothing can be written there.
    """
    if num_scenes < 1 or scenes_per_shard < 1:
        raise ValueError(
            f"num_scenes and scenes_per_shard must be at least 1; they are {num_scenes} and {scenes_per_shard}"
        )
    try:
        return _write(folder, num_scenes, _GroundTruth(labels), seed, scenes_per_shard)
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be written: {error.strerror or error}.") from None


def _write(folder: Path, num_scenes: int, truth: _GroundTruth, seed: int, scenes_per_shard: int) -> DemoDataset:
    shards = folder / _SHARDS_FOLDER
    shards.mkdir(parents=True, exist_ok=True)
    firsts = range(0, num_scenes, scenes_per_shard)
    shard_paths = [shards / _shard_name(number) for number in range(len(firsts))]
    if (shards / _shard_name(len(firsts))).exists():
        raise _other_scenes(shards)
    for path, first in zip(shard_paths, firsts, strict=True):
        members = []
        for index in range(first, min(first + scenes_per_shard, num_scenes)):
            key, scene = f"scene-{index:06d}", render_scene(seed, index)
            members += [(f"{key}.jpg", scene.jpeg), (f"{key}.json", _side_file(scene))]
            truth.add(key, scene)
        content = _tar(members)
        if not path.exists():
            _write_whole(path, content)
        elif path.read_bytes() != content:
            raise _other_scenes(shards)
    ground_truth = folder / _GROUND_TRUTH_NAME
    _write_whole(ground_truth, _json_bytes(truth.content))
    return DemoDataset(shards, tuple(shard_paths), ground_truth)


def _shard_name(number: int) -> str:
    return f"demo-{number:05d}.tar"


def _other_scenes(shards: Path) -> UsageError:
    return UsageError(
        f"{shards} holds other scenes than these (another seed, number or version); they were left as they are. "
        "Ask for the same ones again, or name another folder."
    )


class _GroundTruth:
    """A COCO dataset that grows scene by scene."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._phrases = [parse_phrase(name) for name in labels]
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in enumerate(labels, start=1)],
        }

    def add(self, key: str, scene: Scene) -> None:
        image_id = len(self.content["images"]) + 1
        image = {"id": image_id, "file_name": f"{key}.jpg", "height": scene.height, "width": scene.width}
        self.content["images"].append(image)
        for category_id, phrase in enumerate(self._phrases, start=1):
            for item in scene.objects:
                if phrase is not None and phrase.matches(item.colour, item.shape):
                    names = {"image_id": image_id, "category_id": category_id}
                    number = len(self.content["annotations"]) + 1
                    self.content["annotations"].append({"id": number, **names, **_outline(item)})


def _outline(item: SceneObject) -> dict[str, Any]:
    left, top, right, bottom = item.box_xyxy
    return {
        "segmentation": _compressed_rle(item.mask_hw),
        "area": int(np.count_nonzero(item.mask_hw)),
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": 0,
    }


def _compressed_rle(mask_hw: BoolArray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask_hw.astype(np.uint8)))
    return {"size": list(mask_hw.shape), "counts": encoded["counts"].decode("ascii")}


def _side_file(scene: Scene) -> bytes:
    objects = [
        {"colour": item.colour, "shape": item.shape, "surface": item.surface, **_outline(item)}
        for item in scene.objects
    ]
    return _json_bytes({"height": scene.height, "width": scene.width, "objects": objects})


def _json_bytes(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("utf-8")


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    # USTAR, and tarfile's default owner and time of zero: nothing of this machine or moment gets into the bytes.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
