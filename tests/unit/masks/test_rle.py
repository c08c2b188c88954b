"""Run lengths against pycocotools, on masks that are not square."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco_mask

from sam3lt_ray.masks import rle
from sam3lt_ray.records import Rle

MASKS = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def _ring() -> np.ndarray:
    mask = np.zeros((40, 70), dtype=bool)
    mask[5:30, 10:60] = True
    mask[10:20, 20:50] = False
    return mask


def _parts() -> np.ndarray:
    mask = np.zeros((33, 57), dtype=bool)
    mask[0:4, 0:9] = True
    mask[20:33, 50:57] = True
    mask[16, 28] = True
    return mask


def _one_pixel() -> np.ndarray:
    mask = np.zeros((5, 90), dtype=bool)
    mask[4, 89] = True
    return mask


def _blob() -> np.ndarray:
    rows, columns = np.mgrid[0:700, 0:1100]
    return ((rows - 300) / 250.0) ** 2 + ((columns - 620) / 400.0) ** 2 < 1


CASES = {
    "hole": _ring(),
    "parts": _parts(),
    "one pixel": _one_pixel(),
    "empty": np.zeros((6, 11), dtype=bool),
    "full": np.ones((11, 6), dtype=bool),
    "long runs": np.concatenate([np.zeros((3000, 400), bool), np.ones((3000, 500), bool)], axis=1),
    "blob": _blob(),
    "border": np.pad(np.zeros((8, 3), bool), 1, constant_values=True),
}


@pytest.mark.parametrize("name", CASES)
def test_masks_survive_and_agree_with_pycocotools(name: str) -> None:
    _check_against_pycocotools(CASES[name])


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_any_mask_survives_and_agrees_with_pycocotools(mask: np.ndarray) -> None:
    _check_against_pycocotools(mask)


def _check_against_pycocotools(mask: np.ndarray) -> None:
    reference = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    encoded = rle.encode_mask(mask)

    assert encoded.counts == reference["counts"].decode()
    assert encoded.size == mask.shape
    decoded = rle.decode_mask(encoded)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)
    assert rle.area(encoded) == mask.sum()
    assert rle.box_xywh(encoded) == _box_of(mask)
    counts = rle.uncompress_counts(encoded)
    assert rle.compress_counts(counts, encoded.size) == encoded
    np.testing.assert_array_equal(counts, _runs_of(mask))


def _box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return 0.0, 0.0, 0.0, 0.0
    left, top = columns.min(), rows.min()
    return left, top, columns.max() - left + 1, rows.max() - top + 1


def _runs_of(mask: np.ndarray) -> list[int]:
    runs, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_iou_is_intersection_over_union(height: int, width: int, data: st.DataObject) -> None:
    shapes = npst.arrays(np.bool_, (3, height, width))
    a, b = data.draw(shapes), data.draw(shapes)
    matrix = rle.iou([rle.encode_mask(mask) for mask in a], [rle.encode_mask(mask) for mask in b])

    inter = (a[:, None] & b[None]).sum(axis=(2, 3))
    union = (a[:, None] | b[None]).sum(axis=(2, 3))
    np.testing.assert_allclose(matrix, inter / np.maximum(union, 1), atol=1e-12)


def test_nothing_to_compare_gives_an_empty_matrix() -> None:
    one = rle.encode_mask(_ring())
    assert rle.iou([], [one]).shape == (0, 1)
    assert rle.iou([one], []).shape == (1, 0)
    assert rle.boxes_xywh([]).shape == (0, 4)
    assert rle.areas([]).shape == (0,)


def test_masks_of_different_sizes_have_no_iou() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        rle.iou([rle.encode_mask(_ring())], [rle.encode_mask(_parts())])


@pytest.mark.parametrize("wrong", [np.zeros((3, 4), np.uint8), np.zeros((3, 4, 1), bool)], ids=["dtype", "dims"])
def test_only_two_dimensional_bool_is_a_mask(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"bool\[H, W\]"):
        rle.encode_mask(wrong)


def test_counts_that_do_not_fill_the_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 7 pixels"):
        rle.compress_counts(np.array([3, 4]), (2, 4))


@pytest.mark.parametrize(
    "counts",
    ["", "0", "zz", "`", "\u00e9", "oooooooooooooo0", "8O8"],
    ids=["none", "short", "char", "half", "utf8", "big", "neg"],
)
def test_damaged_text_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        rle.decode_mask(Rle((3, 5), counts))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_json_form_is_pycocotools_text_form() -> None:
    encoded = rle.encode_mask(_ring())
    np.testing.assert_array_equal(coco_mask.decode(rle.to_coco(encoded)).astype(bool), _ring())
