"""Demo datasets on disk: shards, side files and ground truth that pycocotools reads."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sam3lt_ray.demo.dataset import DemoDataset, write_demo_dataset
from sam3lt_ray.demo.scenes import render_scene
from sam3lt_ray.errors import UsageError

LABELS = ("circle", "red shape", "ring", "ear")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DemoDataset:
    return write_demo_dataset(tmp_path_factory.mktemp("demo"), 12, LABELS, seed=4, scenes_per_shard=5)


def test_shards_hold_an_image_and_a_side_file_per_scene(dataset: DemoDataset) -> None:
    assert [path.name for path in dataset.shard_paths] == ["demo-00000.tar", "demo-00001.tar", "demo-00002.tar"]
    names = []
    for path in dataset.shard_paths:
        with tarfile.open(path) as archive:
            names += archive.getnames()
    assert len(names) == len(set(names)) == 24
    assert names[:2] == ["scene-000000.jpg", "scene-000000.json"]
    assert sorted(dataset.shards_folder.iterdir()) == sorted(dataset.shard_paths)


def test_the_same_arguments_write_the_same_bytes(dataset: DemoDataset, tmp_path: Path) -> None:
    again = write_demo_dataset(tmp_path, 12, LABELS, seed=4, scenes_per_shard=5)
    for one, two in zip(again.shard_paths, dataset.shard_paths, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert again.ground_truth.read_bytes() == dataset.ground_truth.read_bytes()


def test_images_have_the_size_the_ground_truth_states(dataset: DemoDataset) -> None:
    images = {image["file_name"]: image for image in json.loads(dataset.ground_truth.read_text())["images"]}
    with tarfile.open(dataset.shard_paths[2]) as archive:
        for name in archive.getnames():
            if name.endswith(".jpg"):
                member = archive.extractfile(name)
                assert member is not None
                with Image.open(io.BytesIO(member.read())) as image:
                    assert image.size == (images[name]["width"], images[name]["height"])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_ground_truth_loads_and_masks_survive(dataset: DemoDataset, capsys: pytest.CaptureFixture[str]) -> None:
    truth = COCO(str(dataset.ground_truth))
    capsys.readouterr()
    assert [truth.cats[number]["name"] for number in (1, 2, 3, 4)] == list(LABELS)
    assert truth.getAnnIds(catIds=[4]) == []
    with_holes = 0
    for image_id in truth.getImgIds():
        scene = render_scene(4, image_id - 1)
        for category, wanted in ((1, "circle"), (3, "ring")):
            expected = [item for item in scene.objects if item.shape == wanted]
            found = truth.loadAnns(truth.getAnnIds(imgIds=[image_id], catIds=[category]))
            assert len(found) == len(expected)
            for annotation, item in zip(found, expected, strict=True):
                assert isinstance(annotation["segmentation"]["counts"], str)
                mask_hw = coco_mask.decode(annotation["segmentation"]).astype(bool)
                assert np.array_equal(mask_hw, item.mask_hw)
                assert annotation["area"] == mask_hw.sum()
                left, top, width, height = annotation["bbox"]
                with_holes += wanted == "ring" and not mask_hw[top + height // 2, left + width // 2]
    assert with_holes > 0


def test_an_object_is_annotated_under_each_label_that_names_it(dataset: DemoDataset) -> None:
    annotations = json.loads(dataset.ground_truth.read_text())["annotations"]
    red_circles = [
        index
        for index in range(12)
        if any(item.colour == "red" and item.shape == "circle" for item in render_scene(4, index).objects)
    ]
    for index in red_circles:
        categories = {entry["category_id"] for entry in annotations if entry["image_id"] == index + 1}
        assert {1, 2} <= categories
    assert len({entry["id"] for entry in annotations}) == len(annotations)


def test_counts_under_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_scenes"):
        write_demo_dataset(tmp_path, 0, LABELS, seed=1)


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_scenes_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    first = write_demo_dataset(tmp_path, 4, LABELS, seed=4, scenes_per_shard=2)
    before = _states(first.shards_folder)
    # A run knows its shards by size and time of change: the same files keep a second start from being refused.
    assert write_demo_dataset(tmp_path, 4, LABELS, seed=4, scenes_per_shard=2) == first
    assert _states(first.shards_folder) == before
    write_demo_dataset(tmp_path, 6, LABELS, seed=4, scenes_per_shard=2)
    after = _states(first.shards_folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"demo-00002.tar"}


@pytest.mark.parametrize(("num_scenes", "seed"), [(4, 5), (3, 4), (2, 4)])
def test_other_scenes_are_refused_and_nothing_is_overwritten(tmp_path: Path, num_scenes: int, seed: int) -> None:
    first = write_demo_dataset(tmp_path, 4, LABELS, seed=4, scenes_per_shard=2)
    before = {path: path.read_bytes() for path in (*first.shard_paths, first.ground_truth)}
    with pytest.raises(UsageError, match=r"holds other scenes .* name another folder"):
        write_demo_dataset(tmp_path, num_scenes, LABELS, seed=seed, scenes_per_shard=2)
    assert {path: path.read_bytes() for path in before} == before


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"file.* cannot be written: "):
        write_demo_dataset(tmp_path / "file" / "scenes", 1, LABELS, seed=1)
