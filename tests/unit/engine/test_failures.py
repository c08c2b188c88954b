"""What fails costs nobody else anything: neither labels nor memory; and a device that is broken says so."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import sam3lt_ray.engine.image_batch as image_batch_module
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.failures import device_failure, is_out_of_memory
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.errors import DeviceError
from sam3lt_ray.records import ImageDetections
from tests.checkpoints import IMAGE_SIZE, PROMPTS
from tests.engine_reference import Loaded, random_checkpoints, s0, smooth_image  # noqa: F401  (two are fixtures)

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
WEIRD = RuntimeError("weird")
BAD_SIZE = (41, 61)

Load = Callable[..., Segmenter]


@pytest.fixture
def load(random_checkpoints: dict[str, Checkpoint]) -> Load:  # noqa: F811
    def load(**settings: Any) -> Segmenter:
        return Segmenter.load(
            random_checkpoints["s0"], PROMPTS, EngineSettings(device="cpu", precision="fp32", **settings)
        )

    return load


def replace_part(segmenter: Segmenter, part: str, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Exchanges a function of a part of the model and gives what it was."""
    owner = getattr(segmenter._parts, part)
    before: Callable[..., Any] = getattr(owner, name)
    stand_in = type("StandIn", (), {"__getattr__": lambda _, other: getattr(owner, other), name: staticmethod(work)})()
    segmenter._parts = replace(segmenter._parts, **{part: stand_in})
    return before


@pytest.fixture
def bad_masks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Run lengths of images of one size fail."""

    def fail_with(error: Exception) -> None:
        encode = image_batch_module.MaskEncoding

        def guarded(logits: torch.Tensor, size_hw: tuple[int, int], threshold: float) -> Any:
            if size_hw == BAD_SIZE:
                raise error
            return encode(logits, size_hw, threshold)

        monkeypatch.setattr(image_batch_module, "MaskEncoding", guarded)

    return fail_with


def outcomes(segmenter: Segmenter, sizes: Sequence[tuple[int, int]], *, ahead: int) -> list[Any]:
    """What comes of images that are submitted so many ahead of those that are collected."""
    found: list[Any] = []
    submissions = []

    def collect() -> None:
        try:
            found.extend(segmenter.collect(submissions.pop(0)))
        except Exception as error:
            found.append(error)

    for seed, size_hw in enumerate(sizes):
        submissions.append(segmenter.submit([smooth_image(IMAGE_SIZE, seed)], [size_hw]))
        if len(submissions) > ahead:
            collect()
    while submissions:
        collect()
    return found


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("error", [OUT_OF_MEMORY, WEIRD])
def test_an_image_whose_masks_fail_is_blamed_alone(
    load: Load,
    bad_masks: Callable[[Exception], None],
    error: Exception,
    ahead: int,
) -> None:
    sizes = [(40, 60), BAD_SIZE, (40, 60), (60, 40)]
    expected = outcomes(load(), sizes, ahead=ahead)
    bad_masks(error)
    found = outcomes(load(), sizes, ahead=ahead)
    assert found[1] is error
    for place in (0, 2, 3):
        assert found[place].detections == expected[place].detections != []


def test_too_many_images_for_the_memory_are_halved_once_and_for_all(
    load: Load,
    s0: Loaded,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    segmenter = load(images_per_batch=5)
    asked: list[int] = []

    def guarded(pixels: torch.Tensor) -> Any:
        asked.append(len(pixels))
        if len(pixels) > 2:
            raise OUT_OF_MEMORY
        return encode(pixels)

    encode = replace_part(segmenter, "vision", "encode", guarded)
    images, sizes = [smooth_image(IMAGE_SIZE, seed) for seed in range(5)], [(40, 61 + seed) for seed in range(5)]
    with caplog.at_level(logging.WARNING, logger="sam3lt_ray"):
        found = segmenter.segment(images, sizes)
    assert asked == [5, 2, 2, 1]
    assert (segmenter.images_per_batch, segmenter.memory_halvings) == (2, 1)
    assert caplog.text.count("compute.images_per_batch") == 1
    for one, other in zip(found, s0.segmenter.segment(images, sizes), strict=True):
        assert len(one.detections) == len(other.detections) > 0
    segmenter.segment(images, sizes)
    assert asked[4:] == [2, 2, 1]


def test_one_image_that_does_not_fit_does_not_lower_what_fits(load: Load) -> None:
    segmenter = load(images_per_batch=8, prompts_per_batch=64)

    def refuse(pixels: torch.Tensor) -> Any:
        raise OUT_OF_MEMORY

    replace_part(segmenter, "vision", "encode", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        segmenter.segment([smooth_image(IMAGE_SIZE, 0)], [(40, 61)])
    assert (segmenter.images_per_batch, segmenter.memory_halvings) == (8, 0)


@pytest.mark.parametrize(("part", "name"), [("vision", "encode"), ("grounding", "ground")])
def test_the_batch_before_is_let_go_when_one_image_does_not_fit_beside_it(load: Load, part: str, name: str) -> None:
    segmenter = load(prompts_per_batch=1)

    def guarded(*arguments: Any) -> Any:
        if segmenter._last_batch is not None:
            raise OUT_OF_MEMORY
        return plain(*arguments)

    expected = outcomes(load(prompts_per_batch=1), [(40, 61), (61, 40), (50, 50)], ahead=2)
    plain = replace_part(segmenter, part, name, guarded)
    found = outcomes(segmenter, [(40, 61), (61, 40), (50, 50)], ahead=2)
    assert [one.detections for one in found] == [one.detections for one in expected]
    assert segmenter.memory_halvings == 0


class Watched:
    """A part of the model that takes memory and then has too little of it, the first time it is asked."""

    def __init__(self) -> None:
        self.plain: Callable[..., Any] = lambda: None
        self.taken: list[weakref.ref[torch.Tensor]] = []
        self.alive: list[bool] = []

    def __call__(self, *arguments: Any) -> Any:
        self.alive += [reference() is not None for reference in self.taken]
        if not self.taken:
            taken = torch.zeros(1000)
            self.taken.append(weakref.ref(taken))
            try:
                raise KeyError("an error may have another one behind it")
            except KeyError:
                raise torch.OutOfMemoryError("CUDA out of memory") from None
        return self.plain(*arguments)


@pytest.mark.parametrize(("part", "name"), [("vision", "encode"), ("grounding", "ground"), ("mask_head", "logits")])
def test_what_a_failed_attempt_took_is_free_before_the_next(
    load: Load, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    segmenter = load(images_per_batch=2)
    watched = Watched()
    emptied: list[list[Any]] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append([taken() for taken in watched.taken]))
    watched.plain = replace_part(segmenter, part, name, watched)
    images, sizes = [smooth_image(IMAGE_SIZE, seed) for seed in range(2)], [(40, 61), (61, 40)]
    assert all(one.detections for one in segmenter.segment(images, sizes))
    assert segmenter.memory_halvings == 1
    assert emptied == [[None]]  # a cache is given back only where nothing holds it
    assert watched.alive
    assert not any(watched.alive)


def test_a_failure_that_is_told_holds_nothing_of_its_batch(load: Load) -> None:
    segmenter = load()
    taken: list[weakref.ref[torch.Tensor]] = []

    def fail(*_: Any) -> Any:
        values = torch.zeros(1000)
        taken.append(weakref.ref(values))
        raise WEIRD

    replace_part(segmenter, "mask_head", "logits", fail)
    submission = segmenter.submit([smooth_image(IMAGE_SIZE, 0)], [(40, 61)])
    batch = submission.batches[0]
    with pytest.raises(RuntimeError, match="weird") as caught:
        segmenter.collect(submission)
    assert caught.value is WEIRD
    assert [reference() for reference in taken] == [None]
    assert (batch.num_unsettled, batch._encoded, segmenter._last_batch) == (0, None, None)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nFor debugging consider"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    ],
)
def test_a_device_that_is_broken_is_told_from_an_image(load: Load, error: Exception) -> None:
    segmenter = load()

    def fail(*_: Any) -> ImageDetections:
        raise error

    replace_part(segmenter, "grounding", "ground", fail)
    with pytest.raises(DeviceError, match=r"^Device cpu failed while it labeled: .*; a new process") as caught:
        segmenter.segment([smooth_image(IMAGE_SIZE, 0)], [(40, 61)])
    assert str(error).splitlines()[0] in caught.value.message
    assert "debugging" not in caught.value.message


@pytest.mark.parametrize(
    "error",
    [
        OUT_OF_MEMORY,
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_out_of_memory_stays_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert device_failure(error, "cuda:0") is None


@pytest.mark.parametrize("error", [WEIRD, ValueError("CUDA error"), RuntimeError("shapes [2, 3] and [4]")])
def test_other_errors_are_an_images(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert device_failure(error, "cuda:0") is None
