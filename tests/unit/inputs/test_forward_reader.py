from __future__ import annotations

import random
from pathlib import Path

import pytest

from sam3lt_ray.inputs.forward_reader import ForwardReader
from sam3lt_ray.inputs.ranged_file import RangedFile
from tests.unit.inputs.shard_files import LOCAL


class Recording(RangedFile):
    def __init__(self, uri: str) -> None:
        super().__init__(uri, LOCAL)
        self.requests: list[tuple[int, int]] = []

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        self.requests.append((offset, num_bytes))
        return super().read_at(offset, num_bytes)


@pytest.fixture
def file(tmp_path: Path) -> Recording:
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(10_000))
    return Recording(str(path))


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_any_mix_of_reading_and_skipping(file: Recording, prefetch: bool, seed: int) -> None:
    content = Path(file.uri).read_bytes()
    source = random.Random(seed)
    with ForwardReader(file, 100, block_bytes=source.choice([7, 256, 4000, 20_000]), prefetch=prefetch) as reader:
        while reader.position < len(content):
            if source.random() < 0.3:
                reader.seek_forward(reader.position + source.randrange(900))
            start, wanted = reader.position, source.randrange(1, 900)
            assert reader.read(wanted) == content[start : start + wanted]
        assert reader.read(10) == b""
    assert min(offset for offset, _ in file.requests) >= 100


def test_skipped_blocks_are_not_requested(file: Recording) -> None:
    with ForwardReader(file, block_bytes=100) as reader:
        reader.read(10)
        reader.seek_forward(5000)
        reader.read(10)
    assert file.requests == [(0, 100), (5000, 100)]


def test_first_block_is_not_followed_ahead(file: Recording) -> None:
    with ForwardReader(file, block_bytes=100, prefetch=True) as reader:
        reader.read(50)
        assert file.requests == [(0, 100)]
        reader.read(100)
    assert file.requests == [(0, 100), (100, 100), (200, 100)]


def test_going_back_is_a_mistake(file: Recording) -> None:
    with ForwardReader(file, 50) as reader, pytest.raises(ValueError, match="go back"):
        reader.seek_forward(49)
