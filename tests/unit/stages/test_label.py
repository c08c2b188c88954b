"""Labeling a unit: order, errors of their own, prompts joined into labels; with a stand-in for the model."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from sam3lt_ray.errors import DeviceError, ImageError
from sam3lt_ray.masks.rle import encode_mask
from sam3lt_ray.records import Detection, EncodedImage, ImageDetections, ImageLabels, Unit, UnitRange
from sam3lt_ray.stages.label import ImageLabeler
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from tests.standin import StandInEngine, plain_image

VOCABULARY = Vocabulary((Label(1, "cat", ("cat", "kitten")), Label(5, "dog", ("dog",))), "test")


def _labeler(engine: StandInEngine, threads: int = 2) -> ImageLabeler:
    return ImageLabeler(engine, VOCABULARY, merge_iou=0.7, max_pixels=10_000, decode_threads=threads)


def _unit(images: Sequence[EncodedImage]) -> Unit:
    return Unit("s.tar", UnitRange(0, len(images), is_last=True), tuple(images))


def test_results_come_in_order_and_errors_stay_where_they_belong() -> None:
    images = [EncodedImage(i, f"{i}.png", plain_image((i * 9, 40, 90), (40 + i, 30))) for i in range(13)]
    images[3] = EncodedImage(3, "3.png", b"not an image")
    images[7] = EncodedImage(7, "7.png", error_kind="duplicate_key", error_message="twice")
    images[9] = EncodedImage(9, "9.png", plain_image((1, 2, 3), (400, 300)))
    results, timings = _labeler(StandInEngine(3)).label_unit(_unit(images))
    kinds = {i: result.kind for i, result in enumerate(results) if isinstance(result, ImageError)}
    assert kinds == {3: "not_an_image", 7: "duplicate_key", 9: "too_large"}
    widths = [result.width for result in results if isinstance(result, ImageLabels)]
    assert widths == [40 + i for i in range(13) if i not in kinds]
    assert 0 < timings.busy_s <= timings.wall_s


class _TwoPrompts(StandInEngine):
    """Both prompts of "cat" find the same thing; the second also finds another one."""

    def _one(self, image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> ImageDetections:
        one, other = np.zeros(size_hw, bool), np.zeros(size_hw, bool)
        one[:10, :10], other[15:25, 15:35] = True, True
        detections = [
            Detection(0, 0.6, (0, 0, 10, 10), 100, encode_mask(one)),
            Detection(1, 0.9, (0, 0, 10, 10), 100, encode_mask(one)),
            Detection(1, 0.5, (15, 15, 35, 25), 200, encode_mask(other)),
            Detection(2, 0.7, (0, 0, 10, 10), 100, encode_mask(one)),
        ]
        return ImageDetections(np.array([0.2, 0.8, 0.4], np.float32), np.array([False, True, False]), detections)


def test_prompts_of_one_label_are_merged_and_labels_are_not() -> None:
    labels = _labeler(_TwoPrompts(3)).label_image(EncodedImage(0, "a.png", plain_image((9, 9, 9))))
    assert isinstance(labels, ImageLabels)
    found = [(instance.label_id, instance.prompt_index, instance.score) for instance in labels.instances]
    assert found == [(1, 1, 0.9), (1, 1, 0.5), (5, 0, 0.7)]
    assert np.allclose(labels.presence, [0.8, 0.4])
    assert labels.saturated == (1,)


class _Failing(StandInEngine):
    """Fails whenever an image of width 41 is in the batch."""

    def _one(self, image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> ImageDetections:
        if size_hw[1] == 41:
            raise RuntimeError("CUDA out of memory" if size_hw[0] == 30 else "cusolver error")
        return super()._one(image, size_hw)


@pytest.mark.parametrize(("height", "kind"), [(30, "out_of_memory"), (31, "failed")])
def test_an_engine_failure_costs_one_image_only(height: int, kind: str) -> None:
    images = [EncodedImage(i, f"{i}.png", plain_image((i, i, i), (40, 30))) for i in range(6)]
    images[2] = EncodedImage(2, "2.png", plain_image((2, 2, 2), (41, height)))
    results, _ = _labeler(_Failing(3)).label_unit(_unit(images))
    assert [result.kind for result in results if isinstance(result, ImageError)] == [kind]
    assert isinstance(results[2], ImageError)
    assert f"41 x {height}" in results[2].message


class _FailingWithMuch(StandInEngine):
    """Refuses several images at once, with something large in its hands."""

    def __init__(self, num_prompts: int, refuses: str) -> None:
        super().__init__(num_prompts)
        self.refuses = refuses
        self.held: list[weakref.ref[npt.NDArray[np.uint8]]] = []
        self.alive: list[bool] = []

    def _refuse(self, count: int) -> None:
        self.alive += [reference() is not None for reference in self.held]
        if count > 1:
            large = np.zeros(1000, np.uint8)
            self.held.append(weakref.ref(large))
            raise RuntimeError("CUDA out of memory")

    def submit(
        self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        if self.refuses == "submit":
            self._refuse(len(pixels))
        return super().submit(pixels, sizes_hw)

    def collect(self, submission: list[ImageDetections]) -> list[ImageDetections]:
        if self.refuses == "collect":
            self._refuse(len(submission))
        return super().collect(submission)


@pytest.mark.parametrize("refuses", ["submit", "collect"])
def test_what_a_failure_came_through_is_free_when_images_are_tried_alone(refuses: str) -> None:
    engine = _FailingWithMuch(3, refuses)
    images = [EncodedImage(i, f"{i}.png", plain_image((i, i, i))) for i in range(engine.images_per_batch)]
    results, _ = _labeler(engine).label_unit(_unit(images))
    assert all(isinstance(result, ImageLabels) for result in results)
    assert len(engine.alive) == len(images)
    assert not any(engine.alive)


@pytest.mark.parametrize("broken", ["submit", "collect"])
def test_a_broken_device_is_no_images_error(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[ImageDetections]:
        raise DeviceError("Device cuda:0 failed.")

    monkeypatch.setattr(StandInEngine, broken, fail)
    images = [EncodedImage(i, f"{i}.png", plain_image((i, i, i))) for i in range(6)]
    with pytest.raises(DeviceError, match="cuda:0"):
        _labeler(StandInEngine(3)).label_unit(_unit(images))
    with pytest.raises(DeviceError, match="cuda:0"):
        _labeler(StandInEngine(3)).label_decoded(np.zeros((30, 40, 3), np.uint8))


def test_decoding_runs_ahead_but_not_far() -> None:
    decoded: list[int] = []

    class Watching(StandInEngine):
        def submit(
            self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
        ) -> list[ImageDetections]:
            ahead.append(len(decoded) - labeled[0])
            labeled[0] += len(pixels)
            return super().submit(pixels, sizes_hw)

    ahead: list[int] = []
    labeled = [0]
    labeler = _labeler(Watching(3))
    preparer = labeler._preparer
    prepare = preparer.prepare
    preparer.prepare = lambda image: (decoded.append(image.index), prepare(image))[1]  # type: ignore[method-assign]
    labeler.label_unit(_unit([EncodedImage(i, f"{i}.png", plain_image((i, 0, 0))) for i in range(60)]))
    assert labeled[0] == 60
    in_the_batch, waiting = Watching.images_per_batch, 2 + 2 * Watching.images_per_batch
    assert max(ahead) <= in_the_batch + waiting


def test_batches_are_submitted_before_results_are_read() -> None:
    order: list[str] = []

    class Recording(StandInEngine):
        def submit(
            self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
        ) -> list[ImageDetections]:
            order.append("submit")
            return super().submit(pixels, sizes_hw)

        def collect(self, submission: list[ImageDetections]) -> list[ImageDetections]:
            order.append("collect")
            return super().collect(submission)

    _labeler(Recording(3)).label_unit(_unit([EncodedImage(i, f"{i}.png", plain_image((i, 0, 0))) for i in range(17)]))
    assert order == ["submit"] * 3 + ["collect", "submit"] * 2 + ["collect"] * 3


def test_the_devices_time_is_reported_once_by_units_labeled_side_by_side() -> None:
    engine = StandInEngine(3, seconds_per_image=0.001)
    labeler = _labeler(engine)
    units = [_unit([EncodedImage(i, f"{i}.png", plain_image((i, n, 0))) for i in range(9)]) for n in range(4)]
    with ThreadPoolExecutor(2) as pool:
        timings = [timing for _, timing in pool.map(labeler.label_unit, units)]
    assert sum(timing.busy_s for timing in timings) == pytest.approx(sum(engine.part_seconds.values()))
