"""Error rows with the same trouble have the same cause, and rows with another one do not."""

from __future__ import annotations

import pytest

from sam3lt_ray.errors import ImageError
from sam3lt_ray.images.decode import decode_rgb
from sam3lt_ray.labels.causes import add_up_causes, cause_of


def _cause_of_decoding(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_rgb(data, max_pixels=1_000_000)
    return cause_of(caught.value.kind, caught.value.message)


def test_different_files_with_the_same_trouble_are_counted_together() -> None:
    assert _cause_of_decoding(b"once upon a time") == _cause_of_decoding(b"it's 12:30 o'clock and \"all\" is well")
    pdf = _cause_of_decoding(b"%PDF-1.4 first")
    assert pdf == _cause_of_decoding(b"%PDF-1.7 second one")
    assert pdf.startswith("unsupported: The file is PDF; decoded are JPEG, PNG")
    assert pdf != _cause_of_decoding(b"once upon a time")


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("There is nothing at s3://bucket/a/b.jpg. Check it.", "There is nothing at …. Check it."),
        ("The key 'it/is.jpg' already stands in this shard's list.", "The key … already stands in this shard's list."),
        ("The image is 20 x 30,000 pixels = 600,000; more.", "The image is … x … pixels = …; more."),
    ],
)
def test_what_is_peculiar_to_an_image_is_left_out(message: str, cause: str) -> None:
    assert cause_of("failed", message) == f"failed: {cause}"


def test_the_commonest_causes_survive_a_flood_of_rare_ones() -> None:
    rare = [{f"failed: {'x' * i}": 1} for i in range(500)]
    total = add_up_causes([{"empty: e": 3}, *rare, {"empty: e": 4}])
    assert total["empty: e"] == 7
    assert len(total) == 50
