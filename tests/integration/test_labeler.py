"""Labeling one image from Python, as the README shows it, with the demo checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam3lt_ray import Labeler
from sam3lt_ray.demo.scenes import render_scene
from sam3lt_ray.errors import ImageError, UsageError
from sam3lt_ray.masks.rle import decode_mask
from sam3lt_ray.records import ImageLabels

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def labeler() -> Labeler:
    return Labeler("demo", "demo")


def _same(one: ImageLabels, other: ImageLabels) -> bool:
    found = [[(i.label_id, i.mask, i.area) for i in labels.instances] for labels in (one, other)]
    return found[0] == found[1] and np.allclose(one.presence, other.presence, atol=1e-5)


def test_the_three_lines_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippet = next(
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "Labeler" in block
    )
    lines = [line for line in snippet.splitlines() if line.strip()]
    assert len(lines) == 3
    (tmp_path / "cat.jpg").write_bytes(render_scene(5, 0).jpeg)
    code = re.sub(r'Labeler\("[^"]+"', 'Labeler("demo"', "\n".join(lines)).replace("cat.jpg", str(tmp_path / "cat.jpg"))
    names: dict[str, Any] = {}
    exec(code, names)  # the README's own lines
    assert capsys.readouterr().out == "Found 0 objects\n"  # no scene has an ear


def test_what_is_in_the_scene_is_found(labeler: Labeler) -> None:
    ids = {label.name: label.id for label in labeler.vocabulary.labels}
    found = expected = 0
    for index in range(6):
        scene = render_scene(7, index)
        labels = labeler(scene.jpeg)
        assert (labels.width, labels.height) == (scene.width, scene.height)
        for thing in scene.objects:
            label_id = ids.get(f"{thing.colour} shape")
            if label_id is None:
                continue
            expected += 1
            found += any(
                instance.label_id == label_id and _iou(decode_mask(instance.mask), thing.mask_hw) > 0.75
                for instance in labels.instances
            )
    assert expected >= 8
    assert found >= 0.85 * expected


def test_every_way_of_giving_an_image_is_the_same_image(labeler: Labeler, tmp_path: Path) -> None:
    pixels = render_scene(9, 1).image_hwc()
    path = tmp_path / "scene.png"
    transparent = Image.fromarray(pixels).convert("RGBA")
    transparent.putalpha(
        Image.fromarray(np.tile(np.linspace(90, 255, pixels.shape[1]).astype(np.uint8), (len(pixels), 1)))
    )
    transparent.save(path)
    by_path = labeler(path)
    assert by_path.instances
    with Image.open(path) as image:
        assert _same(labeler(image), by_path)
    assert _same(labeler(path.read_bytes()), by_path)
    assert _same(labeler(pixels), labeler(Image.fromarray(pixels)))


def test_an_unusable_image_is_said_so(labeler: Labeler) -> None:
    with pytest.raises(ImageError, match="not_an_image"):
        labeler(b"hello, I am a text file")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"score_floor": 5}, r"Labeler: score_floor: expected a number \(at least 0 and at most 1\), got 5"),
        ({"score_floor": "0.2"}, 'score_floor: expected a number .*, got "0.2"'),
        ({"mask_threshold": -1}, r"mask_threshold: expected a number \(above 0 and below 1\), got -1"),
        ({"merge_iou": 7}, "merge_iou: expected a number"),
        ({"device": "gpu"}, 'device: expected one of "auto", "cpu", "cuda", got "gpu"'),
        ({"precision": "fp16"}, "precision: expected one of"),
    ],
)
def test_arguments_have_the_limits_of_the_config(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Labeler("demo", ["star"], **arguments)


def test_a_vocabulary_is_a_list_a_file_or_what_stands_in_one(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("labels: [star]\n")
    by_path = Labeler("demo", tmp_path / "v.yaml", device="cpu")
    by_mapping = Labeler("demo", {"labels": ["star"]}, device="cpu")
    assert [label.name for label in by_path.vocabulary.labels] == ["star"]
    assert by_mapping.vocabulary == by_path.vocabulary
    with pytest.raises(UsageError, match='"red circle" is not a known key; expected a list under `labels:`'):
        Labeler("demo", {"red circle": ["crimson disc"]})


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))
