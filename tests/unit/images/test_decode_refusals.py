"""What is not decoded, and how it is said."""

from __future__ import annotations

import warnings
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from sam3lt_ray.errors import ImageErrorKind
from tests.unit.images.decoding import decode, outcome, refused
from tests.unit.images.image_files import HEIGHT, WIDTH, encode, huge_header, rgb_file


def test_empty() -> None:
    assert refused(b"").kind == "empty"


@pytest.mark.parametrize("data", [b"x", b"<html><body>404</body></html>", b"P5is not it", b"BM" * 30, bytes(100)])
def test_not_an_image(data: bytes) -> None:
    error = refused(data)
    assert error.kind == "not_an_image"
    assert f"{len(data)} bytes" in error.message


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS\0\x01", "Photoshop"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a\x00", "JPEG XL"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG"),
        (b"\0\0\x01\0\x01\0", "ICO"),
    ],
)
def test_formats_that_are_not_decoded(data: bytes, name: str) -> None:
    error = refused(data)
    assert error.kind == "unsupported"
    assert name in error.message
    assert "JPEG, PNG" in error.message


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_cut_off_files(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), image_format)
    for share in (0.5, 0.7, 0.9):
        error = refused(data[: int(len(data) * share)])
        # A TIFF's tags stand in front here: cut inside them nothing tells that more was to come.
        assert error.kind == "truncated" or image_format == "TIFF", (share, error)
        assert "ends too early" in error.message or error.kind == "corrupt"
    for end in range(1, len(data) - 1, max(1, len(data) // 30)):
        assert outcome(data[:end]) in ("decoded", "truncated", "corrupt", "not_an_image")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "JPEG2000", "AVIF"])
def test_damaged_files_fail_as_image_errors_only(image_format: str) -> None:
    data = rgb_file(image_format)
    source = np.random.default_rng(3)
    for _ in range(40):
        damaged = bytearray(data)
        for position in source.integers(0, len(data), 6):
            damaged[position] = source.integers(256)
        assert outcome(bytes(damaged)) in {"decoded", *get_args(ImageErrorKind)}


def test_damaged_png_is_corrupt() -> None:
    data = bytearray(rgb_file("PNG"))
    data[data.index(b"IDAT") + 10] ^= 0xFF
    error = refused(bytes(data))
    assert error.kind == "corrupt"
    assert "PNG" in error.message


def test_pixel_limit_is_exact_and_named() -> None:
    data = rgb_file("PNG")
    assert decode(data, max_pixels=WIDTH * HEIGHT).shape == (HEIGHT, WIDTH, 3)
    error = refused(data, max_pixels=WIDTH * HEIGHT - 1)
    assert error.kind == "too_large"
    assert "60 x 40 pixels = 2,400; the limit is 2,399 pixels (input.max_pixels)" in error.message


@pytest.mark.parametrize(
    ("image_format", "side"), [("PNG", 200_000), ("BMP", 200_000), ("GIF", 65_000), ("PNG", 12_000)]
)
def test_the_limit_holds_before_pixels_are_decoded(image_format: str, side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refused(huge_header(image_format, side, side), 100_000_000).kind == "too_large"


def test_limits_above_pillows_own_work() -> None:
    """Pillow refuses 179 megapixels and warns from 89 on; the limit that counts is ours."""
    data = huge_header("PNG", 20_000, 9_500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = refused(data, max_pixels=189_999_999)
        assert error.kind == "too_large"
        # Behind the limit comes decoding, which finds too few pixels.
        assert refused(data, max_pixels=190_000_000).kind == "truncated"
