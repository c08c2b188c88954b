"""COCO files: pycocotools loads them, and every mask in them is the stored one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sam3lt_ray.exports.coco import export_coco
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.masks import rle
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_run

RING, PAIR = Label(2, "ring <b>", ("ring",), threshold=0.7), Label(11, "pair", ("pair",), supercategory="things")
SIZE_HW = (48, 80)


def _ring() -> np.ndarray:
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[5:30, 10:60] = True
    mask[10:20, 20:50] = False
    return mask


def _pair() -> np.ndarray:
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[0:6, 0:9] = True
    mask[40:48, 70:80] = True
    return mask


def _images() -> list[LabeledImage]:
    presence = {2: 0.9, 11: 0.9}
    found = [
        make_instance(_ring(), label_id=2, score=0.9),
        make_instance(_ring(), label_id=2, score=0.6),  # under the label's own threshold
        make_instance(_pair(), label_id=11, score=0.6, prompt_index=1),
        make_instance(_pair(), label_id=11, score=0.3),
    ]
    return [
        make_failed_image("broken.jpg", index=0),
        make_image("städte/ß.jpg", index=1, presence=presence, instances=found),
        make_image("empty.png", index=2, presence=presence, size_hw=(20, 31)),
        make_image("last.jpg", index=0, shard="z.tar", presence=presence, instances=found[2:3]),
    ]


@pytest.fixture
def reader(tmp_path: Path) -> RunReader:
    return RunReader(make_run(tmp_path / "run", _images(), [RING, PAIR], images_per_unit=2))


def test_dataset_is_loaded_by_pycocotools(reader: RunReader, capsys: pytest.CaptureFixture[str]) -> None:
    summary = export_coco(reader, reader.store, kind="dataset", score_threshold=0.5)

    coco = COCO(summary.locations[0])
    capsys.readouterr()
    assert (summary.images, summary.annotations, summary.skipped_images, summary.below_threshold) == (3, 3, 1, 2)
    assert [(image["id"], image["file_name"]) for image in coco.loadImgs(coco.getImgIds())] == [
        (2, "städte/ß.jpg"),
        (3, "empty.png"),
        (4, "last.jpg"),
    ]
    assert coco.loadCats(coco.getCatIds()) == [
        {"id": 2, "name": "ring <b>", "supercategory": ""},
        {"id": 11, "name": "pair", "supercategory": "things"},
    ]
    ring, pair, _ = coco.loadAnns(coco.getAnnIds())
    assert (ring["id"], ring["category_id"], ring["iscrowd"], ring["area"]) == (1, 2, 0, int(_ring().sum()))
    assert ring["bbox"] == [10, 5, 50, 25]
    assert ring["sam3lt"] == {"box_xyxy": [9.75, 4.75, 60.25, 30.25], "prompt_index": 0}
    assert pair["bbox"] == [0, 0, 80, 48]
    assert pair["score"] == pytest.approx(0.6)
    assert pair["sam3lt"]["prompt_index"] == 1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_holes_and_parts_survive_exactly(reader: RunReader, capsys: pytest.CaptureFixture[str]) -> None:
    coco = COCO(export_coco(reader, reader.store, kind="dataset", score_threshold=0.5).locations[0])
    capsys.readouterr()
    ring, pair, _ = coco.loadAnns(coco.getAnnIds())
    assert ring["segmentation"] == {"size": list(SIZE_HW), "counts": rle.encode_mask(_ring()).counts}
    np.testing.assert_array_equal(coco_mask.decode(ring["segmentation"]).astype(bool), _ring())
    np.testing.assert_array_equal(coco.annToMask(pair).astype(bool), _pair())


def test_image_entries_lead_back_to_the_run(reader: RunReader) -> None:
    content = _load(export_coco(reader, reader.store, kind="dataset").locations[0])
    expected = _images()[1]
    assert content["images"][0] == {
        "id": 2,
        "file_name": "städte/ß.jpg",
        "width": 80,
        "height": 48,
        "sam3lt": {"image_id": expected.image_id, "shard": "shard-0.tar", "index": 1},
    }
    assert content["info"]["sam3lt"]["fingerprint"] == "f00d" * 16
    assert content["info"]["sam3lt"]["images_without_labels"] == 1
    assert content["info"]["sam3lt"]["score_thresholds"] == {"2": 0.7, "11": 0.5}


def test_results_hold_every_score_and_load_onto_their_images(
    reader: RunReader, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = export_coco(reader, reader.store, kind="results")
    results, images = summary.locations

    loaded = COCO(images).loadRes(results)
    capsys.readouterr()
    assert [annotation["score"] for annotation in loaded.loadAnns(loaded.getAnnIds())] == pytest.approx(
        [0.9, 0.6, 0.6, 0.3, 0.6]
    )
    assert {annotation["image_id"] for annotation in loaded.loadAnns(loaded.getAnnIds())} == {2, 4}
    assert (summary.annotations, summary.below_threshold) == (5, 0)
    assert loaded.loadAnns(1)[0]["segmentation"]["counts"] == rle.encode_mask(_ring()).counts


def test_results_with_a_threshold_respect_it(reader: RunReader) -> None:
    summary = export_coco(reader, reader.store, kind="results", score_threshold=0.25)
    assert [found["score"] for found in _load(summary.locations[0])] == pytest.approx([0.9, 0.6, 0.3, 0.6])


def test_the_same_run_gives_the_same_bytes(reader: RunReader) -> None:
    first = Path(export_coco(reader, reader.store, kind="dataset").locations[0]).read_bytes()
    second = Path(export_coco(reader, reader.store, kind="dataset").locations[0]).read_bytes()
    assert first == second


def test_a_run_without_instances_is_still_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = RunReader(make_run(tmp_path, [make_failed_image("x.jpg")], [RING]))
    coco = COCO(export_coco(reader, reader.store, kind="dataset").locations[0])
    capsys.readouterr()
    assert (coco.getImgIds(), coco.getAnnIds(), coco.getCatIds()) == ([], [], [2])
    assert _load(export_coco(reader, reader.store, kind="results").locations[0]) == []


def test_what_is_not_a_number_never_reaches_the_file(tmp_path: Path) -> None:
    sound = make_instance(_ring(), label_id=2, score=0.9)
    odd_box = dataclasses.replace(sound, box_xyxy=(float("nan"), 0.0, float("inf"), 1.0))
    odd_score = dataclasses.replace(sound, score=float("nan"))
    image = make_image("x.jpg", presence={2: 0.5}, instances=[odd_box, odd_score])
    reader = RunReader(make_run(tmp_path, [image], [RING]))
    for kind in ("dataset", "results"):
        location = export_coco(reader, reader.store, kind=kind).locations[0]
        content = _load(location)
        (annotation,) = content["annotations"] if kind == "dataset" else content
        assert annotation["sam3lt"]["box_xyxy"] is None
        assert annotation["bbox"] == [10, 5, 50, 25]


def _load(location: str) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(Path(location).read_text(), parse_constant=refuse)


def test_an_image_says_which_labels_it_was_not_asked(tmp_path: Path) -> None:
    images = [make_image(str(n), index=n, presence={RING.id: 0.9}) for n in range(3)]
    make_run(tmp_path, images, [RING], images_per_unit=2)
    asked = [make_image(str(n), index=n, presence={PAIR.id: 0.9}) for n in range(2)]
    store = make_run(tmp_path, asked, [PAIR], layer="001", images_per_unit=2)
    assert export_coco(RunReader(store), store, kind="dataset").partly_asked_images == 1
    written = json.loads(store.read("exports/coco/instances.json"))["images"]
    assert [image["sam3lt"].get("category_ids_not_asked") for image in written] == [None, None, [PAIR.id]]
