from __future__ import annotations

import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, features

from tests.unit.images.decoding import decode, outcome, refused
from tests.unit.images.image_files import HEIGHT, WIDTH, encode, gradient, huge_header, rgb_file

# --- formats and pixels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {}),
    ],
)
def test_lossless_formats(image_format: str, options: dict[str, object]) -> None:
    pixels = decode(rgb_file(image_format, **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, gradient())


@pytest.mark.parametrize(("image_format", "tolerance"), [("JPEG", 12), ("WEBP", 20), ("AVIF", 20), ("GIF", 60)])
def test_lossy_formats(image_format: str, tolerance: int) -> None:
    difference = np.abs(decode(rgb_file(image_format)).astype(int) - gradient())
    assert difference.shape == (HEIGHT, WIDTH, 3)
    assert difference.max() < tolerance


def test_grey_and_black_and_white() -> None:
    grey = gradient()[:, :, 0]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=-1))
    one_bit = Image.fromarray(grey).point(lambda value: 255 if value > 100 else 0).convert("1")
    np.testing.assert_array_equal(decode(encode(one_bit, "PNG"))[:, :, 1], np.where(grey > 100, 255, 0))


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (5, 3), 1)
    image.putpalette([0, 0, 0, 200, 10, 20, 0, 0, 250])
    image.putpixel((4, 2), 2)
    assert decode(encode(image, "PNG"))[0, 0].tolist() == [200, 10, 20]
    for form in ("PNG", "GIF"):
        pixels = decode(encode(image, form, transparency=2))
        assert pixels[0, 0].tolist() == [200, 10, 20]
        assert pixels[2, 4].tolist() == [255, 255, 255]
    by_bytes = decode(encode(image, "PNG", transparency=bytes([255, 0, 255])))
    assert by_bytes[0, 0].tolist() == [255, 255, 255]
    assert by_bytes[2, 4].tolist() == [0, 0, 250]


@pytest.mark.parametrize(("alpha", "expected"), [(255, [100, 0, 0]), (0, [255, 255, 255]), (51, [224, 204, 204])])
def test_alpha_lies_over_white(alpha: int, expected: list[int]) -> None:
    for form in ("PNG", "TIFF"):
        pixels = decode(encode(Image.new("RGBA", (4, 2), (100, 0, 0, alpha)), form))
        assert pixels.shape == (2, 4, 3)
        assert pixels[0, 0].tolist() == expected


@pytest.mark.parametrize("height", [255, 256, 257, 700])
def test_tall_images_are_converted_as_short_ones_are(height: int) -> None:
    source = np.random.default_rng(5)
    image = Image.fromarray(source.integers(0, 256, (height, 31, 4), dtype=np.uint8))
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    np.testing.assert_array_equal(decode(encode(image, "PNG")), expected)
    values = source.integers(0, 65536, (height, 31), dtype=np.uint16)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(values), "PNG"))[:, :, 1], values >> 8)


def test_grey_with_alpha_and_transparent_colours() -> None:
    assert decode(encode(Image.new("LA", (4, 2), (100, 0)), "PNG"))[0, 0].tolist() == [255] * 3
    assert decode(encode(Image.new("L", (4, 2), 7), "PNG", transparency=7))[0, 0].tolist() == [255] * 3
    red = Image.new("RGB", (4, 2), (9, 8, 7))
    assert decode(encode(red, "PNG", transparency=(9, 8, 7)))[0, 0].tolist() == [255] * 3


def test_cmyk() -> None:
    cmyk = Image.new("CMYK", (6, 4), (0, 255, 255, 0))
    assert decode(encode(cmyk, "TIFF"))[0, 0].tolist() == [255, 0, 0]
    assert np.abs(decode(encode(cmyk, "JPEG"))[0, 0].astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_the_high_byte(image_format: str) -> None:
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 27
    pixels = decode(encode(Image.fromarray(values), image_format))
    np.testing.assert_array_equal(pixels[:, :, 2], values >> 8)


def test_16_bit_rgb_keeps_the_high_byte() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", *[0x1234, 0xFF80, 0x00FF] * 2) for _ in range(3))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 3, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in chunks)
    assert decode(data)[0].tolist() == [[0x12, 0xFF, 0x00]] * 2


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_16_bit_tiffs_of_other_kinds() -> None:
    values = np.full((3, 5), 0x1234, np.uint16)
    white_is_zero = encode(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert decode(white_is_zero)[0, 0].tolist() == [255 - 0x12] * 3
    big_endian = encode(Image.fromarray(values.astype(">u2")), "TIFF")
    assert decode(big_endian)[0, 0].tolist() == [0x12] * 3


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_meaning_as_colours(mode: str) -> None:
    error = refused(encode(Image.new(mode, (5, 4)), "TIFF"))
    assert error.kind == "unsupported"
    assert "whose display is not defined" in error.message


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_first_frame_or_page(image_format: str) -> None:
    frames = [Image.new("RGB", (8, 4), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
    assert np.abs(decode(data)[0, 0].astype(int) - [250, 0, 0]).max() < 8


# --- orientation ------------------------------------------------------------------------------------------------------

# What a viewer does with a stored image of that orientation (Exif 2.32, tag 0x0112).
TURNED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("image_format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_orientation_is_applied(orientation: int, image_format: str, options: dict[str, object]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(rgb_file(image_format, exif=exif, **options))
    np.testing.assert_array_equal(pixels, TURNED[orientation](gradient()))


def test_orientation_of_jpegs_and_of_transparent_images() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(rgb_file("JPEG", exif=exif)).shape == (WIDTH, HEIGHT, 3)
    palette = Image.new("P", (5, 3), 0)
    palette.putpalette([9, 9, 9])
    pixels = decode(encode(palette, "PNG", exif=exif, transparency=0))
    assert pixels.shape == (5, 3, 3)
    assert pixels[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0garbage" * 9])
def test_damaged_exif_loses_no_image(exif: bytes) -> None:
    assert decode(rgb_file("JPEG", exif=exif)).shape == (HEIGHT, WIDTH, 3)


def test_unknown_orientation_is_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    np.testing.assert_array_equal(decode(rgb_file("PNG", exif=exif)), gradient())


# --- process-wide state -----------------------------------------------------------------------------------------------


def test_nothing_is_left_changed_and_no_warning_leaks() -> None:
    files = [
        rgb_file("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage"),
        rgb_file("TIFF", compression="tiff_lzw")[:3000],
        rgb_file("PNG")[:100],
        encode(Image.new("P", (5, 3)), "PNG", transparency=b"\0"),
        huge_header("PNG", 10_000, 9_000),
    ]
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    caught: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_rest, **_more: caught.append(str(message))
        for data in files:
            outcome(data, 1_000_000_000)
    assert caught == []
    assert (limit, filters) == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))


def test_many_threads_at_once() -> None:
    files = [rgb_file(image_format) for image_format in ("PNG", "JPEG", "WEBP", "TIFF")]
    expected = [decode(data) for data in files]
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        for turn in range(20):
            which = (thread + turn) % len(files)
            np.testing.assert_array_equal(decode(files[which]), expected[which])
            assert refused(files[which], 10).kind == "too_large"

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, range(8)))
    assert (limit, filters) == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))


def test_formats_a_pillow_cannot_decode_are_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_header = rgb_file("AVIF")[:200]
    monkeypatch.setattr(features, "check", lambda _feature: False)
    error = refused(cut_header)
    assert error.kind == "unsupported"
    assert "this build of Pillow" in error.message


def test_errors_pickle() -> None:
    import pickle

    error = refused(b"")
    assert pickle.loads(pickle.dumps(error)).args == error.args
