"""Run lengths of images of any shape, thin, tall and large, are pycocotools' of torch's interpolation, to the bit."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.run_lengths import assert_to_the_bit

_MOST_PIXELS = 6_000_000  # of an image; all of a test's masks are held dense, as the engine never does


@st.composite
def sizes_hw(draw: st.DrawFn) -> tuple[int, int]:
    """Not square: one side up to 12000 pixels, the other as long as the number of pixels allows."""
    long = draw(st.one_of(st.just(12000), st.integers(200, 12000)))
    short = draw(st.integers(1, min(long - 1, _MOST_PIXELS // long)))
    return (long, short) if draw(st.booleans()) else (short, long)


def make_logits(seed: int, side: int, grain: int, holes: float) -> torch.Tensor:
    """Two masks of smooth blobs, with single cells turned over: float32 [2, side, side + 3]."""
    random = np.random.RandomState(seed)
    coarse = torch.from_numpy(random.normal(-0.5, 3, (1, 2, grain, grain + 1)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (side, side + 3), mode="bicubic")[0]
    turned = torch.from_numpy(random.uniform(size=smooth.shape) < holes)
    return torch.where(turned, -smooth, smooth)


@settings(max_examples=20, deadline=None)
@given(
    size_hw=sizes_hw(),
    seed=st.integers(0, 1000),
    side=st.sampled_from([5, 72, 288, 1024]),  # 1024: many images are made smaller then
    grain=st.integers(2, 12),
    holes=st.sampled_from([0.0, 0.002, 0.1]),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
)
def test_any_large_image(
    size_hw: tuple[int, int], seed: int, side: int, grain: int, holes: float, threshold: float
) -> None:
    assert_to_the_bit(make_logits(seed, side, grain, holes), size_hw, threshold)
