"""Room for a mask's changes: enough for smooth outlines of any size, and asked for again where it was not enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sam3lt_ray.engine.ops.mask_changes as mask_changes_module
from sam3lt_ray.engine.ops.mask_changes import MaskChanges
from sam3lt_ray.engine.runs import MaskEncoding, _expected_changes
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from tests.checkpoints import IMAGE_SIZE, PROMPTS
from tests.engine_reference import Loaded, random_checkpoints, s0, smooth_image  # noqa: F401  (two are fixtures)

if torch.cuda.is_available():
    pytest.skip("tests/gpu has room that is limited for real", allow_module_level=True)
pytest.importorskip("triton")


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Capacities with which changes were found, as on CUDA: what does not fit is only counted. In plain torch."""
    from sam3lt_ray.engine.kernels import mask_changes as kernel_module

    capacities: list[int] = []

    def find(dense: torch.Tensor, threshold: float, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
        capacities.append(capacity)
        ends, positions = mask_changes_module.find_changes_plainly(dense, threshold)
        return ends, positions[:capacity]

    monkeypatch.setattr(mask_changes_module, "has_triton", lambda _: True)
    monkeypatch.setattr(kernel_module, "find_changes", find)
    return capacities


@pytest.mark.parametrize("size_hw", [(1500, 3000), (3000, 1500), (6000, 40), (40, 6000)])
def test_smooth_outlines_are_found_at_once(launches: list[int], size_hw: tuple[int, int]) -> None:
    coarse = torch.from_numpy(np.random.RandomState(1).normal(-1, 3, (1, 3, 9, 9)).astype(np.float32))
    logits = torch.nn.functional.interpolate(coarse, (288, 288), mode="bicubic")[0]
    encoding = MaskEncoding(logits, size_hw, 0.5)
    asked = len(launches)
    assert not encoding.lacks_room()
    assert all(one.area > 0 for one in encoding.wait())
    assert len(launches) == asked


def test_the_room_grows_with_the_image_and_stays_bounded() -> None:
    assert _expected_changes((6000, 12000)) > 60_000
    assert 4 * _expected_changes((6000, 12000)) < 500_000  # bytes of a mask
    assert 4 * _expected_changes((960, 1280)) < 50_000
    assert _expected_changes((3, 5)) == 15


def test_room_is_made_once_also_when_memory_was_short(launches: list[int]) -> None:
    noise = torch.from_numpy(np.random.RandomState(0).uniform(0, 1, (2, 30, 41)).astype(np.float32))
    short = [False, True, False]

    def make_dense() -> torch.Tensor:
        if short.pop(0):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return noise

    changes = MaskChanges(make_dense, 0.5, 100)
    assert changes.lacks_room()
    with pytest.raises(torch.OutOfMemoryError):
        changes.make_room()
    assert changes.lacks_room()
    changes.make_room()
    assert not changes.lacks_room()
    ends, positions = mask_changes_module.find_changes_plainly(noise, 0.5)
    assert launches == [100, len(positions)]
    assert [one.tolist() for one in changes.wait()] == [positions[: ends[0]].tolist(), positions[ends[0] :].tolist()]


def test_an_image_with_noisy_masks_gets_its_room_within_the_memory(
    launches: list[int],
    s0: Loaded,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter = Segmenter.load(s0.checkpoint, PROMPTS, EngineSettings(device="cpu", precision="fp32"))
    pixels, size_hw = smooth_image(IMAGE_SIZE, 1), (40, 61)
    (expected,) = segmenter.segment([pixels], [size_hw])
    monkeypatch.setattr("sam3lt_ray.engine.runs._expected_changes", lambda _: 3)
    submission = segmenter.submit([pixels], [size_hw])
    find = mask_changes_module.find_changes_plainly
    short = iter([torch.OutOfMemoryError("CUDA out of memory")])

    def find_with_little_memory(dense: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
        if dense.is_inference() and launches[-1] > 6 and (error := next(short, None)) is not None:
            raise error
        return find(dense, threshold)

    monkeypatch.setattr(mask_changes_module, "find_changes_plainly", find_with_little_memory)
    (found,) = segmenter.collect(submission)
    assert segmenter.memory_halvings == 1
    assert found.detections == expected.detections
