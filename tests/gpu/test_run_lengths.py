"""Run lengths made on the GPU are pycocotools' of torch's interpolation and threshold, to the bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sam3lt_ray.engine.runs import MaskEncoding
from tests.peak_memory import PeakMemory
from tests.run_lengths import assert_to_the_bit


@settings(max_examples=150, deadline=None)
@given(
    logits=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=24),
        elements=st.one_of(st.floats(-6, 6, width=32), st.sampled_from([-9.0, 0.0, 9.0])),
    ),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
)
def test_any_masks(logits: npt.NDArray[np.float32], height: int, width: int, threshold: float) -> None:
    assert_to_the_bit(torch.from_numpy(logits).cuda(), (height, width), threshold)


def test_empty_full_single_pixels_and_noise() -> None:
    logits = torch.full((5, 288, 288), -9.0)
    logits[1] = 9.0
    logits[2, 100, 17] = logits[2, 0, 0] = logits[2, 287, 287] = 9.0
    logits[3, ::2] = 9.0
    logits[4] = torch.from_numpy(np.random.RandomState(0).normal(0, 4, (288, 288)).astype(np.float32))
    for size_hw in ((288, 288), (960, 1280), (50, 31), (1, 4000), (4000, 1)):  # noise: more changes than there is room
        assert_to_the_bit(logits.cuda(), size_hw, 0.5)


@pytest.mark.parametrize("size_hw", [(6000, 12000), (12000, 6000)])
def test_a_large_image_with_many_instances_takes_little_memory(size_hw: tuple[int, int]) -> None:
    coarse = torch.from_numpy(np.random.RandomState(1).normal(-1, 3, (1, 150, 9, 9)).astype(np.float32))
    logits = torch.nn.functional.interpolate(coarse, (288, 288), mode="bicubic")[0].cuda()
    assert_to_the_bit(logits[:2], size_hw, 0.5)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    device_before, host = torch.cuda.memory_reserved(), PeakMemory()  # without what the comparison above took
    masks = MaskEncoding(logits, size_hw, 0.5).wait()
    device = torch.cuda.max_memory_reserved() - device_before
    print(f"150 masks of {size_hw}: {device / 2**30:.2f} GiB on the device, {host.grown_mb():.0f} MB on the host")
    assert len(masks) == 150
    assert device < 2e9
    assert host.grown_mb() < 1000
