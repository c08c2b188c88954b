"""The report page: numbers, pictures, escaping, and nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3lt_ray.errors import StorageError
from sam3lt_ray.evaluation.figures import EvaluationReport, LabelFigures, MaskFigures, PresenceFigures
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.report.page import write_report
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_run

CAT, EVIL = Label(3, "cat", ("cat",)), Label(5, "<img src=x onerror=alert(1)>", ("dog & 'pup'",), threshold=0.25)
SIZE_HW = (48, 80)
SUMMARY = {
    "status": "done",
    "finished_at": "2026-11-23T10:11:12Z",
    "session": {
        "images": {"total": 4, "ok": 3, "error": 1},
        "wall_s": 75.2,
        "images_per_s": 1234.56,
        "device": "cpu",
        "actors": 2,
        "device_busy_share": 0.873,
    },
    "versions": {"torch": "2.13.0"},
}


class _Page(HTMLParser):
    """Elements, text and everything that a browser would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self._text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "data", "srcset", "action", "poster"}:
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self._text))


def _mask() -> np.ndarray:
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[10:40, 20:60] = True
    return mask


def _images() -> list[LabeledImage]:
    presence = {3: 0.9, 5: 0.6}
    found = [make_instance(_mask(), label_id=3, score=0.91), make_instance(_mask(), label_id=5, score=0.3)]
    return [
        make_image("<script>alert('key')</script>.jpg", index=0, presence=presence, instances=found),
        make_failed_image("bad.jpg", index=1, kind="truncated", message="Ends after <b>3</b> bytes."),
        make_image("gone.jpg", index=2, presence=presence),
        make_image("other.jpg", index=3, presence={3: 0.1, 5: 0.0}),
    ]


def _jpeg(size_hw: tuple[int, int] = SIZE_HW) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size_hw[1], size_hw[0]), (30, 60, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


def _fetch(image: LabeledImage) -> bytes | None:
    if image.key == "gone.jpg":
        return None
    return _jpeg((10, 10)) if image.key == "other.jpg" else _jpeg()


def _write(
    folder: Path,
    images: list[LabeledImage] | None = None,
    fetch: Callable[[LabeledImage], bytes | None] = _fetch,
    evaluation: EvaluationReport | None = None,
    summary: dict | None = None,
) -> str:
    store = make_run(folder / "run", _images() if images is None else images, [CAT, EVIL])
    reader = RunReader(store)
    location = write_report(
        reader, store, summary=SUMMARY if summary is None else summary, evaluation=evaluation, images=fetch
    )
    assert location.endswith("run/report/index.html")
    return Path(location).read_text(encoding="utf-8")


def _evaluation() -> EvaluationReport:
    masks = MaskFigures(0.7654, 0.91, 0.8, None, 0.7, 0.9, 0.81)
    presence = PresenceFigures(40, 10, 30, 0.975, 0.95, 3, 1)
    return EvaluationReport(
        ground_truth="/data/<truth>.json",
        images=20,
        failed_images=1,
        images_not_in_run=0,
        images_not_in_ground_truth=2,
        objects=12,
        detections=34,
        max_detections=100,
        score_threshold=0.5,
        labels_not_in_ground_truth=(EVIL.name,),
        categories_not_in_run=(),
        masks=masks,
        presence=presence,
        labels=(LabelFigures(3, "cat", 12, masks, presence),),
    )


def test_headline_numbers_and_tables(tmp_path: Path) -> None:
    text = _Page(_write(tmp_path)).text
    assert "Images 4 3 labeled" in text
    assert "Errors 1 25.0 % of images" in text
    assert "Instances 2 2 stored above the floor" in text
    assert "Speed 1,234.6 images/s on 2 \u00d7 cpu, 87.3 % busy" in text
    assert "Wall time 1 min 15 s last start: 4 images" in text
    assert "cat 2 1 1 0.50 0.92" in text  # 0.915, the middle of the bin that holds 0.91
    assert "truncated 1 bad.jpg in shard-0.tar: Ends after <b>3</b> bytes." in text
    assert "f00d" * 16 in text
    assert "torch 2.13.0" in text
    assert "Mask AP" not in text


def test_nothing_from_the_data_becomes_markup(tmp_path: Path) -> None:
    html = _write(tmp_path, evaluation=_evaluation())
    page = _Page(html)
    assert "script" not in page.tags
    assert page.handlers == []
    assert page.tags.count("img") == 3
    assert "<script>alert('key')</script>.jpg" in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "from /data/<truth>.json" in page.text
    assert "<script" not in html.lower()


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    html = _write(tmp_path)
    page = _Page(html)
    assert len(page.fetched) == 3
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in page.fetched)
    assert "default-src 'none'; img-src data:" in html
    assert not re.search(r"url\(|@import|https?://", html)
    assert not {"link", "iframe", "object", "embed", "form"} & set(page.tags)


def test_pictures_are_jpegs_and_missing_ones_say_why(tmp_path: Path) -> None:
    page = _Page(_write(tmp_path))
    with Image.open(io.BytesIO(base64.b64decode(page.fetched[0].partition(",")[2]))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (240, 144))
    assert "gone.jpg The image is not available any more. nothing found" in page.text
    assert "other.jpg The image has changed since it was labeled." in page.text


def test_a_picture_that_cannot_be_read_never_stops_the_report(tmp_path: Path) -> None:
    def broken(image: LabeledImage) -> bytes:
        if image.index == 0:
            return b"no image at all"
        raise StorageError("The bucket is on holiday.")

    page = _Page(_write(tmp_path, fetch=broken))
    assert len(page.fetched) == 3
    assert page.text.count("The bucket is on holiday.") == 2


def test_evaluation_is_shown_when_there_is_one(tmp_path: Path) -> None:
    text = _Page(_write(tmp_path, evaluation=_evaluation())).text
    assert "Mask AP 0.765 AP50 0.910, presence 0.975" in text
    assert "All labels 0.765 0.910 0.800 - 0.700 0.900 0.810" in text
    assert "All labels 40 10 30 0.975 10.0 % 10.0 %" in text
    assert "1 image could not be labeled: objects there count as missed." in text
    assert f"Labels without ground truth: {EVIL.name}" in text


@pytest.mark.parametrize("images", [[], [make_failed_image("only.jpg")]], ids=["no images", "only errors"])
def test_a_run_with_nothing_to_show_has_a_report(tmp_path: Path, images: list[LabeledImage]) -> None:
    page = _Page(_write(tmp_path, images=images, summary={}))
    assert f"Images {len(images)} 0 labeled" in page.text
    assert "img" not in page.tags
    assert "Speed" not in page.text


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    summary = {**SUMMARY, "status": "interrupted", "session": {**SUMMARY["session"], "images_per_s": None}}  # type: ignore[dict-item]
    text = _Page(_write(tmp_path, summary=summary)).text
    assert "interrupted" in text
    assert "Speed" not in text
