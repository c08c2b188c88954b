from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from sam3lt_ray.engine.runs import MaskEncoding
from tests.run_lengths import assert_to_the_bit


@settings(max_examples=150, deadline=None)
@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=12)),
    most_pixels=st.sampled_from([1 << 20, 200, 144]),
)
def test_any_mask_at_its_own_size(mask: npt.NDArray[np.bool_], most_pixels: int) -> None:
    """Holes, borders, single pixels, empty and full: interpolation to the same size changes nothing."""
    logits = torch.from_numpy(np.where(mask, 4.0, -4.0).astype(np.float32))
    height, width = mask.shape[1:]
    encoded = MaskEncoding(logits, (height, width), 0.5, most_pixels=most_pixels).wait()
    for one, expected in zip(encoded, mask, strict=True):
        reference = coco_mask.encode(np.asfortranarray(expected.astype(np.uint8)))
        assert one.rle.counts == reference["counts"].decode()
        assert one.area == int(expected.sum())


@settings(max_examples=100, deadline=None)
@given(
    logits=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=9),
        elements=st.floats(-6, 6, width=32),
    ),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
    most_pixels=st.sampled_from([1 << 20, 3000]),
)
def test_any_logits_at_any_size(
    logits: npt.NDArray[np.float32], height: int, width: int, threshold: float, most_pixels: int
) -> None:
    """Up, down and sideways, several masks at a time or one by one."""
    assert_to_the_bit(torch.from_numpy(logits), (height, width), threshold, most_pixels)


@pytest.mark.parametrize("size_hw", [(37, 91), (200, 120), (10, 17), (1, 30), (33, 1)])
@pytest.mark.parametrize("most_pixels", [1, 5, 50, 400])
def test_masks_larger_than_a_piece_are_done_one_by_one(size_hw: tuple[int, int], most_pixels: int) -> None:
    random = np.random.RandomState(size_hw[0])
    coarse = torch.from_numpy(random.normal(0, 3, (1, 3, 5, 6)).astype(np.float32))
    logits = torch.nn.functional.interpolate(coarse, (20, 24), mode="bicubic")[0]
    assert_to_the_bit(logits, size_hw, 0.5, most_pixels)


def test_empty_and_full() -> None:
    logits = torch.stack([torch.full((4, 4), -9.0), torch.full((4, 4), 9.0)])
    empty, full = MaskEncoding(logits, (30, 20), 0.5).wait()
    assert (empty.area, full.area) == (0, 600)
    assert empty.rle.counts == coco_mask.encode(np.zeros((30, 20), np.uint8, order="F"))["counts"].decode()
    assert full.rle.counts == coco_mask.encode(np.ones((30, 20), np.uint8, order="F"))["counts"].decode()


def test_no_masks() -> None:
    assert MaskEncoding(torch.zeros((0, 8, 8)), (30, 20), 0.5).wait() == []
