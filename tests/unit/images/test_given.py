"""Images handed over from Python, and the answer to what is none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3lt_ray.errors import ImageError
from sam3lt_ray.images.given import GivenImage, rgb_of
from tests.unit.images.image_files import HEIGHT, WIDTH, encode, gradient, rgb_file

MAX_PIXELS = 10_000


def read(image: GivenImage) -> np.ndarray:
    return np.asarray(rgb_of(image, max_pixels=MAX_PIXELS))


def test_every_form_is_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = rgb_file()
    (tmp_path / "a.png").write_bytes(data)
    paths: list[GivenImage] = [tmp_path / "a.png", str(tmp_path / "a.png"), "~/a.png"]
    contents: list[GivenImage] = [data, bytearray(data), memoryview(data), io.BytesIO(data)]
    for image in (*paths, *contents, Image.fromarray(gradient()), gradient()):
        assert np.array_equal(read(image), gradient())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((3, HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(
        ImageError, match=r"^unsupported: The array is \w+ \[.*expected uint8 \[height, width, 3\], RGB"
    ):
        read(array)


def test_an_array_without_pixels() -> None:
    with pytest.raises(ImageError, match=r"^empty: The array is \[0, 60, 3\]"):
        read(np.zeros((0, WIDTH, 3), np.uint8))


def test_a_pillow_image_whose_file_is_damaged() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), "JPEG")
    with Image.open(io.BytesIO(whole[: len(whole) // 2])) as image, pytest.raises(ImageError) as caught:
        read(image)
    assert caught.value.kind == "truncated"
    assert caught.value.message.startswith("The JPEG file ends too early: the decoder says: ")
    broken = bytearray(rgb_file())
    broken[45] ^= 255
    with Image.open(io.BytesIO(bytes(broken))) as image, pytest.raises(ImageError) as caught:
        read(image)
    assert caught.value.kind == "corrupt"


@pytest.mark.parametrize("nothing", [None, 7, [1, 2], io.StringIO("text")])
def test_what_is_no_image_at_all(nothing: object) -> None:
    with pytest.raises(TypeError, match=r"An image is a path, .*; this is \w+\."):
        read(nothing)  # type: ignore[arg-type]


def test_files_that_are_not_there_or_not_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="not_an_image"):
        read(b"text")
    with pytest.raises(ImageError, match="too_large"):
        rgb_of(rgb_file(), max_pixels=10)
