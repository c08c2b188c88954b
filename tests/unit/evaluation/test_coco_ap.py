"""Evaluation: figures that can be worked out by hand, agreement with pycocotools' own summary, and clear refusals."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam3lt_ray.cli import main
from sam3lt_ray.errors import UsageError
from sam3lt_ray.evaluation.coco_ap import evaluate
from sam3lt_ray.evaluation.figures import EvaluationReport, load_evaluation, save_evaluation
from sam3lt_ray.exports.coco import export_coco
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.masks import rle
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_run

CAT, DOG = Label(0, "cat", ("cat",)), Label(7, "dog", ("dog",))
SIZE_HW = (60, 90)


def _rectangle(left: int, top: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _polygon(left: int, top: int, width: int, height: int) -> list[list[int]]:
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def _truth_image(number: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": SIZE_HW[0], "width": SIZE_HW[1], **more}


def _object(number: int, image: int, category: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    """Ground truth the way tools write it: polygons, ids from 0, no iscrowd, no area."""
    return {"id": number, "image_id": image, "category_id": category, "segmentation": _polygon(*box), **more}


def _write(path: Path, images: list, annotations: list, categories: list | None = None) -> Path:
    categories = categories or [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def _small_run(folder: Path) -> RunReader:
    """cat: one perfect, one missed, one false; dog: perfect. One image failed, one has no ground truth."""
    images = [
        make_image(
            "0.jpg",
            index=0,
            size_hw=SIZE_HW,
            presence={0: 0.9, 7: 0.8},
            instances=[
                make_instance(_rectangle(5, 5, 20, 30), label_id=0, score=0.9),
                make_instance(_rectangle(50, 10, 30, 40), label_id=7, score=0.7),
            ],
        ),
        make_image(
            "1.jpg",
            index=1,
            size_hw=SIZE_HW,
            presence={0: 0.6, 7: 0.1},
            instances=[make_instance(_rectangle(1, 1, 10, 10), label_id=0, score=0.55)],
        ),
        make_failed_image("2.jpg", index=2),
        make_image("unknown.jpg", index=3, size_hw=SIZE_HW, presence={0: 0.9, 7: 0.9}),
    ]
    return RunReader(make_run(folder / "run", images, [CAT, DOG], images_per_unit=2))


def _small_truth(folder: Path) -> Path:
    images = [_truth_image(n, f"{n}.jpg") for n in range(3)] + [_truth_image(9, "not-in-run.jpg")]
    objects = [
        _object(0, 0, 1, (5, 5, 20, 30)),
        _object(1, 0, 2, (50, 10, 30, 40)),
        _object(2, 2, 1, (40, 20, 20, 20)),
        _object(3, 9, 1, (40, 20, 20, 20)),
    ]
    return _write(folder / "truth.json", images, objects)


def test_figures_worked_out_by_hand(tmp_path: Path) -> None:
    report = evaluate(_small_run(tmp_path), _small_truth(tmp_path))
    cat, dog = report.labels

    # cat: two objects, found 0.9 right, then 0.55 wrong: precision 1 up to recall 0.5 (51 of 101 steps), then none.
    assert cat.masks.ap == pytest.approx(51 / 101)
    assert cat.masks.ap50 == pytest.approx(51 / 101)
    assert cat.masks.ar == pytest.approx(0.5)
    assert dog.masks.ap == pytest.approx(1.0)
    assert report.masks.ap == pytest.approx((51 / 101 + 1) / 2)
    assert (cat.masks.ap_large, dog.masks.ap_medium, dog.masks.ap_small) == (None, pytest.approx(1.0), None)
    assert (report.images, report.failed_images, report.images_not_in_run) == (3, 1, 1)
    assert report.images_not_in_ground_truth == 1
    assert (report.objects, report.detections, cat.objects, dog.objects) == (3, 3, 2, 1)

    # Pairs of the two images that were labeled: present cat0, dog0; absent cat1 (said present, found 0.55), dog1.
    presence = report.presence
    assert (presence.pairs, presence.present_pairs, presence.absent_pairs) == (4, 2, 2)
    assert presence.accuracy == pytest.approx(3 / 4)
    assert presence.accuracy_by_score == pytest.approx(3 / 4)
    assert presence.false_instance_pairs == 1
    assert presence.false_instance_share == pytest.approx(1 / 2)
    assert presence.missed_share == 0
    assert (cat.presence.accuracy, dog.presence.accuracy) == (pytest.approx(1 / 2), pytest.approx(1.0))


def test_the_score_threshold_decides_presence_by_score(tmp_path: Path) -> None:
    report = evaluate(_small_run(tmp_path), _small_truth(tmp_path), score_threshold=0.8)
    assert report.presence.false_instance_pairs == 0
    assert report.presence.missed_pairs == 1  # dog at 0.7
    assert report.presence.accuracy_by_score == pytest.approx(3 / 4)


def test_a_crowd_region_is_present_but_no_object(tmp_path: Path) -> None:
    crowd_mask = _rectangle(0, 0, 40, 40)
    counts = rle.uncompress_counts(rle.encode_mask(crowd_mask)).tolist()
    crowd = {
        "id": 3,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 1,
        "segmentation": {"size": list(SIZE_HW), "counts": counts},
    }
    truth = _write(tmp_path / "t.json", [_truth_image(0, "0.jpg"), _truth_image(1, "1.jpg")], [
        _object(0, 0, 1, (5, 5, 20, 30)), _object(1, 0, 2, (50, 10, 30, 40)), crowd,
    ])  # fmt: skip
    report = evaluate(_small_run(tmp_path), truth)
    assert report.masks.ap == pytest.approx(1.0)  # the instance inside the crowd counts neither way
    assert report.labels[0].objects == 1
    assert report.presence.present_pairs == 3
    assert report.presence.accuracy == 1.0


def test_agrees_with_pycocotools_on_our_own_export(tmp_path: Path) -> None:
    reader, truth = _random_run(tmp_path, num_images=25)
    report = evaluate(reader, truth)

    results, images = export_coco(reader, reader.store, kind="results").locations
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(truth))
        reference = COCOeval(ground_truth, COCO(images).loadRes(results), "segm")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    masks = report.masks
    ours = [masks.ap, masks.ap50, masks.ap75, masks.ap_small, masks.ap_medium, masks.ap_large, masks.ar]
    expected = [*reference.stats[:6].tolist(), reference.stats[8]]
    assert [-1.0 if value is None else value for value in ours] == pytest.approx(expected)
    assert 0.05 < reference.stats[0] < 0.95


def test_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(_small_run(tmp_path), _small_truth(tmp_path))
    assert capsys.readouterr() == ("", "")


def test_no_detections_at_all_is_a_result(tmp_path: Path) -> None:
    images = [make_image("0.jpg", size_hw=SIZE_HW, presence={0: 0.1, 7: 0.1})]
    reader = RunReader(make_run(tmp_path / "run", images, [CAT, DOG]))
    report = evaluate(reader, _small_truth(tmp_path))
    assert (report.masks.ap, report.masks.ar, report.detections) == (0.0, 0.0, 0)
    assert report.presence.missed_pairs == 2


def test_own_export_as_ground_truth_matches_by_stable_id_even_where_names_repeat(tmp_path: Path) -> None:
    found = [make_instance(_rectangle(5, 5, 20, 30), label_id=0, score=0.9)]
    images = [
        make_image("0.jpg", shard="a.tar", size_hw=SIZE_HW, presence={0: 0.9, 7: 0.1}, instances=found),
        make_image("0.jpg", shard="b.tar", size_hw=SIZE_HW, presence={0: 0.1, 7: 0.1}),
    ]
    reader = RunReader(make_run(tmp_path / "run", images, [CAT, DOG]))
    report = evaluate(reader, export_coco(reader, reader.store, kind="dataset").locations[0])
    assert (report.images, report.masks.ap, report.presence.accuracy) == (2, pytest.approx(1.0), 1.0)


def test_label_map_joins_categories_and_names_what_is_left(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "kitten"}, {"id": 2, "name": "puppy"}, {"id": 3, "name": "tree"}]
    truth = _write(
        tmp_path / "t.json",
        [_truth_image(0, "0.jpg")],
        [_object(0, 0, 1, (5, 5, 20, 30)), _object(1, 0, 2, (50, 10, 30, 40)), _object(2, 0, 3, (1, 1, 5, 5))],
        categories,
    )
    reader = _small_run(tmp_path)
    partly = evaluate(reader, truth, label_map={"kitten": "cat"})
    assert [label.name for label in partly.labels] == ["cat"]
    assert partly.labels_not_in_ground_truth == ("dog",)
    assert partly.categories_not_in_run == ("puppy", "tree")
    joined = evaluate(reader, truth, label_map={"kitten": "cat", "puppy": "cat"})
    assert joined.labels[0].objects == 2


def test_report_survives_being_saved(tmp_path: Path) -> None:
    reader = _small_run(tmp_path)
    assert load_evaluation(reader.store) is None
    report = evaluate(reader, _small_truth(tmp_path))
    location = save_evaluation(report, reader.store)
    assert location.endswith("run/exports/evaluation.json")
    assert load_evaluation(reader.store) == report
    assert EvaluationReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert json.loads(Path(location).read_text())["presence"]["false_instance_share"] == 0.5


def test_text_table_shows_figures_and_what_was_left_out(tmp_path: Path) -> None:
    text = evaluate(_small_run(tmp_path), _small_truth(tmp_path)).to_text()
    lines = text.splitlines()
    assert "mask AP      0.752    AP50 0.752    AP75 0.752    AR100 0.750" in lines
    assert "by size      small 0.505    medium 1.000    large -" in lines
    assert any(line.split() == ["cat", "2", "0.505", "0.505", "0.505", "0.500", "100.00%"] for line in lines)
    assert "1 image could not be labeled: objects there count as missed." in lines
    assert "1 image of the ground truth not in the run: not measured." in lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: [image.update(file_name="x" + image["file_name"]) for image in t["images"]],
            "No image of .* 'x0.jpg'",
        ),
        (lambda t: [category.update(name="Cat") for category in t["categories"]], "No category .* 'Cat'.*'cat', 'dog'"),
        (lambda t: t["annotations"][0].update(category_id=44), "category 44, which is not"),
        (lambda t: t["annotations"][1].pop("segmentation"), "annotation 1 has no segmentation"),
        (lambda t: t["annotations"][1].update(segmentation={"size": [9, 9], "counts": [81]}), "annotation 1 cannot be"),
        (lambda t: t["annotations"][1].update(segmentation=[[1, 2]]), "annotation 1 cannot be read"),
        (lambda t: t["images"][0].update(width=60, height=90), "60 x 90 pixels, but it was labeled as 90 x 60"),
        (lambda t: t["images"][1].update(file_name="0.jpg"), "two images are called '0.jpg'"),
        (lambda t: t["images"][0].pop("file_name"), "has no file_name"),
        (lambda t: t.pop("categories"), "no list 'categories'"),
    ],
)
def test_ground_truth_that_cannot_be_used_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    truth = _small_truth(tmp_path)
    content = json.loads(truth.read_text())
    change(content)
    truth.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        evaluate(_small_run(tmp_path), truth)


def test_files_that_are_no_ground_truth_are_refused(tmp_path: Path) -> None:
    reader = _small_run(tmp_path)
    with pytest.raises(UsageError, match=r"missing\.json: .* cannot be read"):
        evaluate(reader, tmp_path / "missing.json")
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(UsageError, match="not valid JSON"):
        evaluate(reader, tmp_path / "no.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UsageError, match="expected a COCO instances file"):
        evaluate(reader, tmp_path / "list.json")
    with pytest.raises(UsageError, match="Copy it here"):
        evaluate(reader, "s3://bucket/truth.json")


def test_the_command_takes_a_map_and_refuses_what_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _small_run(tmp_path).store.uri
    truth = _write(
        tmp_path / "kittens.json",
        [_truth_image(1, "0.jpg")],
        [_object(1, 1, 3, (0, 0, 9, 9))],
        [{"id": 3, "name": "kitten"}],
    )
    command = ["evaluate", run, "-g", str(truth)]
    assert main(command) == 2
    assert "--map CATEGORY=LABEL" in capsys.readouterr().err
    assert main([*command, "--map", "kitten=cat", "--json"]) == 0
    assert [label["name"] for label in json.loads(capsys.readouterr().out)["labels"]] == ["cat"]
    for pairs in (["kitten"], ["kitten=cat", "kitten=dog"]):
        assert main([*command, *(word for pair in pairs for word in ("--map", pair))]) == 2
        assert "--map" in capsys.readouterr().err
    assert main(["evaluate", run, "-g", "s3://bucket/truth.json"]) == 2
    assert "s3://bucket/truth.json: ground truth is read from a local file" in capsys.readouterr().err


def test_a_label_map_that_names_nothing_is_refused(tmp_path: Path) -> None:
    reader, truth = _small_run(tmp_path), _small_truth(tmp_path)
    with pytest.raises(UsageError, match="names category 'bird'"):
        evaluate(reader, truth, label_map={"bird": "cat"})
    with pytest.raises(UsageError, match="names label 'bird'"):
        evaluate(reader, truth, label_map={"cat": "bird"})


def test_runs_that_cannot_be_matched_are_refused(tmp_path: Path) -> None:
    twice = [
        make_image("0.jpg", shard=shard, size_hw=SIZE_HW, presence={0: 0.1, 7: 0.1}) for shard in ("a.tar", "b.tar")
    ]
    with pytest.raises(UsageError, match=r"Two images of the run are called '0.jpg'.*'b.tar'"):
        evaluate(RunReader(make_run(tmp_path / "twice", twice, [CAT, DOG])), _small_truth(tmp_path))
    with pytest.raises(UsageError, match="no labels yet"):
        evaluate(RunReader(make_run(tmp_path / "none", [], [CAT, DOG])), _small_truth(tmp_path))


def _random_run(folder: Path, *, num_images: int) -> tuple[RunReader, Path]:
    """Noisy detections of random rectangles; ground truth with the ids that our export gives the images."""
    rng = np.random.default_rng(11)
    images: list[LabeledImage] = []
    objects: list[dict[str, Any]] = []
    for index in range(num_images):
        found = []
        for _ in range(int(rng.integers(0, 6))):
            label_id, category = ((0, 0), (7, 7))[int(rng.integers(0, 2))]
            left, top = int(rng.integers(0, 50)), int(rng.integers(0, 30))
            width, height = (int(side) for side in rng.integers(8, 40, 2))
            box = (left, top, min(width, 89 - left), min(height, 59 - top))
            number = len(objects) + 1
            area = int(_rectangle(*box).sum())
            objects.append(_object(number, index + 1, category, box, area=area, iscrowd=0))
            if rng.random() < 0.8:
                shift = int(rng.integers(0, 6))
                mask = _rectangle(box[0] + shift, box[1], box[2], box[3])
                found.append(make_instance(mask, label_id=label_id, score=float(rng.uniform(0.2, 1))))
        presence = {0: float(rng.random()), 7: float(rng.random())}
        images.append(make_image(f"{index}.jpg", index=index, size_hw=SIZE_HW, presence=presence, instances=found))
    reader = RunReader(make_run(folder / "run", images, [CAT, DOG], images_per_unit=8))
    truth_images = [_truth_image(index + 1, f"{index}.jpg") for index in range(num_images)]
    categories = [{"id": 0, "name": "cat"}, {"id": 7, "name": "dog"}]
    return reader, _write(folder / "truth.json", truth_images, objects, categories)
