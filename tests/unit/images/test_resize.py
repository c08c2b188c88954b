from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sam3lt_ray.images.resize import resize_for_model
from tests.unit.images.image_files import gradient


def test_squashes_to_a_square() -> None:
    resized = resize_for_model(gradient(), 24)
    assert resized.shape == (24, 24, 3)
    assert resized.dtype == np.uint8
    assert resized.flags.writeable
    assert resized.flags.c_contiguous
    corners = resized[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    expected = gradient()[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.abs(corners - expected).max() <= 8


def test_same_size_is_unchanged() -> None:
    square = np.ascontiguousarray(gradient()[:, :40])
    np.testing.assert_array_equal(resize_for_model(square, 40), square)


def _triangle_weights(size_in: int, size_out: int) -> np.ndarray:  # type: ignore[type-arg]
    """Antialiased bilinear resampling as a matrix: a triangle as wide as the reduction, sampled at pixel centres."""
    scale = size_in / size_out
    width = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    distance = np.abs(np.arange(size_in)[None] + 0.5 - centres[:, None]) / width
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("image_size", [7, 24, 53, 90])
def test_is_antialiased_bilinear_up_to_rounding(image_size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    rows, columns = _triangle_weights(40, image_size), _triangle_weights(61, image_size)
    exact = np.einsum("yh,xw,hwc->yxc", rows, columns, image.astype(float))
    assert np.abs(resize_for_model(image, image_size) - exact).max() <= 1.01


def test_one_pass_however_large_the_reduction() -> None:
    image = np.random.default_rng(1).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    exact = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_for_model(image, 20), exact)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 4), (4, 5, 1)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        resize_for_model(np.zeros(shape, np.uint8), 8)


def test_wrong_type_and_size() -> None:
    with pytest.raises(ValueError, match="float32"):
        resize_for_model(np.zeros((4, 5, 3), np.float32), 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        resize_for_model(gradient(), 0)
