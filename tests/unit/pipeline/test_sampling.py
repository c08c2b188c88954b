"""What a few images of the input say about all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.inputs.listing import list_shards
from sam3lt_ray.pipeline.sampling import InputSample, sample_input
from tests.standin import plain_image, write_tar

PICTURE = plain_image((3, 5, 7))


def _tar(path: Path, num_images: int) -> None:
    write_tar(path, [(f"{number:04d}.png", PICTURE) for number in range(num_images)])


def _sample(folder: Path, num_images: int, kind: str = "webdataset") -> InputSample:
    settings = InputSettings.model_validate({"format": kind, "uri": str(folder), "images_per_group": 4})
    shards = list_shards(settings, StorageSettings())
    return sample_input(shards, settings, StorageSettings(), num_images)


def test_of_many_tars_the_beginnings_of_eight_are_read(tmp_path: Path) -> None:
    for number in range(20):
        _tar(tmp_path / f"{number:02d}.tar", 300)
    sample = _sample(tmp_path, 12)
    assert (sample.shards, sample.images_read, sample.read_whole) == (8, 8 * 256, {})
    assert len(sample.images) == 12
    size_bytes = (tmp_path / "00.tar").stat().st_size
    assert sample.images_per_byte is not None
    assert sample.images_per_byte * size_bytes == pytest.approx(300, rel=0.05)


def test_a_tar_that_ends_within_the_sample_is_counted(tmp_path: Path) -> None:
    _tar(tmp_path / "large.tar", 300)
    _tar(tmp_path / "small.tar", 3)
    assert _sample(tmp_path, 0).read_whole == {"small.tar": 3}


def test_small_shards_leave_their_share_to_others(tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar", 1)
    _tar(tmp_path / "b.tar", 30)
    images = _sample(tmp_path, 20).images
    assert len(images) == 20
    assert len({(image.index, image.key) for image in images[1:]}) == 19


def test_of_loose_files_no_more_is_read_than_is_wanted(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02d}.png").write_bytes(PICTURE)
    sample = _sample(tmp_path, 5, "folder")
    assert (sample.shards, len(sample.images), sample.images_per_byte) == (5, 5, None)
    assert _sample(tmp_path, 0, "folder").images_read == 0
