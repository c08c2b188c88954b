from __future__ import annotations

import io
import random
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sam3lt_ray.errors import StorageError
from sam3lt_ray.inputs import forward_reader, ranged_file
from sam3lt_ray.inputs.ranged_file import RangedFile
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.inputs.webdataset import split_member_name
from sam3lt_ray.records import ReadRange, Shard, Unit
from tests.unit.inputs.shard_files import (
    LOCAL,
    assert_same_from_every_unit,
    count_reads,
    images_of,
    keys_before,
    make_shard,
    make_tar,
    read_all,
    samples,
    settings_for,
)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")),
        ("dir.v2/a.left.JPG", ("dir.v2/a", "left.jpg")),
        ("a/b/c.tar.gz", ("a/b/c", "tar.gz")),
        ("noextension", None),
        (".hidden.jpg", None),
        ("__MACOSX/._a.jpg", None),
        ("dir/", None),
        ("a.", ("a", "")),
    ],
)
def test_key_rule(name: str, parts: tuple[str, str] | None) -> None:
    assert split_member_name(name) == parts


def test_images_with_their_side_files(tmp_path: Path) -> None:
    members = [
        ("s/000.json", b"{}"),
        ("s/000.JPG", b"image"),
        ("s/000.cls", b"3"),
        ("readme.txt", b"text"),
        ("s/001.png", b""),
        ("s/002.txt", b"no image here"),
        ("s/003.webp", b"other"),
    ]
    (unit,) = read_all(make_shard(tmp_path, make_tar(members)))
    assert [(image.index, image.key, image.data, image.side_files) for image in unit.images] == [
        (0, "s/000.JPG", b"image", ("s/000.json", "s/000.cls")),
        (1, "s/001.png", b"", ()),
        (2, "s/003.webp", b"other", ()),
    ]
    assert [image.error_kind for image in unit.images] == [None, "empty", None]
    assert (unit.range.first, unit.range.count, unit.range.is_last) == (0, 3, True)
    assert unit.shard_error is None
    assert unit.resume_offset is None


def test_which_member_is_the_image(tmp_path: Path) -> None:
    members = [("a.seg.png", b"mask"), ("a.jpg", b"image"), ("b.left.jpg", b"only"), ("c.jpg", b"1"), ("c.PNG", b"2")]
    shard = make_shard(tmp_path, make_tar(members))
    a, b, c = images_of(read_all(shard))
    assert (a.key, a.data, a.side_files) == ("a.jpg", b"image", ("a.seg.png",))
    assert (b.key, b.data) == ("b.left.jpg", b"only")
    assert (c.key, c.data, c.error_kind) == ("c.jpg", b"", "unsupported")
    assert c.error_message is not None
    assert "'c.jpg' and 'c.PNG'" in c.error_message
    named = images_of(read_all(shard, settings_for(image_column="PNG")))
    assert [(image.key, image.data) for image in named] == [("c.PNG", b"2")]
    masks = images_of(read_all(shard, settings_for(image_column=".seg.png")))
    assert [(image.key, image.side_files) for image in masks] == [("a.seg.png", ("a.jpg",))]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_images_of_formats_that_are_not_decoded_are_error_rows(tmp_path: Path) -> None:
    members = [
        *[("a.heic", HEIC), ("a.json", b"{}"), ("a.dng", b"II*\0 a TIFF")],  # the first one is the image
        *[("b.pdf", b"%PDF"), ("b.jpg", b"image")],  # a side file of an image
        *[("c.jpg", b"image"), ("c.svg", b"<svg>")],
        *[("d.x.NEF", b"II*\0 a TIFF"), ("e.heic", b"\xff\xd8\xff a JPEG"), ("f.pdf", b"")],
        ("g.txt", b"text"),
    ]
    shard = make_shard(tmp_path, make_tar(members))
    settings = settings_for(images_per_unit=2)
    units = read_all(shard, settings)
    assert [(image.key, image.side_files, image.error_kind) for image in images_of(units)] == [
        ("a.heic", ("a.json", "a.dng"), "unsupported"),
        ("b.jpg", ("b.pdf",), None),
        ("c.jpg", ("c.svg",), None),
        ("d.x.NEF", (), "unsupported"),
        ("e.heic", (), None),
        ("f.pdf", (), "empty"),
    ]
    messages = [image.error_message or "" for image in images_of(units)]
    assert messages[0].startswith("The file is HEIC; decoded are JPEG, ")
    assert messages[3].startswith("The file is camera raw (.nef); decoded are ")
    assert_same_from_every_unit(shard, settings, units)


def test_an_image_that_is_not_decoded_takes_no_key_from_one_that_is(tmp_path: Path) -> None:
    members = [("a.svg", b"<svg>"), ("b.svg", b"<svg>"), ("a.jpg", b"1"), ("b.jpg", b"2"), ("a.svg", b"<svg>")]
    shard = make_shard(tmp_path, make_tar(members))
    settings = settings_for(images_per_unit=2)
    units = read_all(shard, settings)
    assert [(image.key, image.error_kind) for image in images_of(units)] == [
        *[("a.svg", "unsupported"), ("b.svg", "unsupported"), ("a.jpg", None), ("b.jpg", None)],
        ("a.svg", "duplicate_key"),
    ]
    assert_same_from_every_unit(shard, settings, units)


def test_repeated_keys_are_error_rows(tmp_path: Path) -> None:
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.png", b"3"), ("b.json", b"{}"), ("a.jpg", b"4")]
    images = images_of(read_all(make_shard(tmp_path, make_tar(members))))
    assert [(image.key, image.data, image.error_kind) for image in images] == [
        ("a.jpg", b"1", None),
        ("b.jpg", b"2", None),
        ("a.png", b"", "duplicate_key"),
        ("a.jpg", b"", "duplicate_key"),
    ]
    assert "'a'" in str(images[2].error_message)


def test_repetition_is_found_when_reading_from_the_middle(tmp_path: Path) -> None:
    members = [*samples(6), ("000001.png", b"again"), *samples(8)[12:]]
    shard, small = make_shard(tmp_path, make_tar(members)), settings_for(images_per_unit=3)
    units = read_all(shard, small)
    assert [image.error_kind for image in images_of(units)] == [None] * 6 + ["duplicate_key"] + [None] * 2
    assert_same_from_every_unit(shard, small, units)


def test_names_that_are_too_long(tmp_path: Path) -> None:
    long = "d.r/" + "n" * 5_000
    members = [("a.jpg", b"1"), (f"a.{'x' * 5_000}", b""), ("a.txt", b"2")]
    members += [(f"{long}.jpg", b"3"), (f"{long}.txt", b""), (f"{long}.seg.png", b"4"), ("b.jpg", b"5")]
    shard = make_shard(tmp_path, make_tar([*members, (f"{long}.jpg", b"6")]))
    one = settings_for(images_per_unit=1)
    units = read_all(shard, one)
    first, *odd, second, last = images_of(units)
    assert (first.key, first.data, first.side_files) == ("a.jpg", b"1", ("a.txt",))
    assert (second.key, second.data) == ("b.jpg", b"5")
    for image, extension in zip([*odd, last], ["jpg", "png", "jpg"], strict=True):
        assert re.fullmatch(rf"d_r_n+_\d+\.{extension}", image.key)
        assert (image.data, image.error_kind) == (b"", "unsupported")
        assert "more than 4,096 bytes" in str(image.error_message)
    assert len({image.key for image in images_of(units)}) == 5
    assert_same_from_every_unit(shard, one, units)


def test_side_files_are_named_up_to_a_number_of_characters(tmp_path: Path) -> None:
    names = [f"a.{number:04}{'x' * 3_000}" for number in range(100)]
    (unit,) = read_all(make_shard(tmp_path, make_tar([*((name, b"") for name in names), ("a.jpg", b"1")])))
    assert unit.images[0].side_files == tuple(names[:44])


def test_long_names_are_shortened_in_messages(tmp_path: Path) -> None:
    key = "k" * 4_000
    members = [(f"{key}.jpg", b"1"), (f"{key}.png", b"2"), ("b.jpg", b"3"), (f"{key}.jpg", b"4")]
    (unit,) = read_all(make_shard(tmp_path, make_tar(members)))
    assert [image.error_kind for image in unit.images] == ["unsupported", None, "duplicate_key"]
    assert all(len(image.error_message or "") < 500 for image in unit.images)


def test_too_large_members_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(tmp_path, make_tar([("big.jpg", bytes(3 * 2**20)), ("small.jpg", b"x")]))
    monkeypatch.setattr(forward_reader, "BLOCK_BYTES", 4096)
    read_bytes = count_reads(monkeypatch)
    big, small = images_of(read_all(shard, settings_for(max_image_mb=2)))
    assert (big.error_kind, big.data, small.data) == ("too_large", b"", b"x")
    assert "3,145,728 bytes" in str(big.error_message)
    assert "2 MB" in str(big.error_message)
    assert sum(read_bytes) < 30_000


def test_reading_from_an_offset_reads_nothing_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(tmp_path, make_tar(samples(40, size_bytes=5000)))
    small = settings_for(images_per_unit=10)
    units = read_all(shard, small)
    monkeypatch.setattr(forward_reader, "BLOCK_BYTES", 4096)
    starts: list[int] = []
    original = RangedFile.read_at
    monkeypatch.setattr(RangedFile, "read_at", lambda self, at, n: (starts.append(at), original(self, at, n))[1])
    offset = units[2].resume_offset
    assert offset is not None
    last = list(read_units(shard, [ReadRange(30, None, offset)], small, LOCAL, keys_before(units)))
    assert last == units[3:]
    assert min(starts) == offset


def test_range_with_end_stops_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(tmp_path, make_tar(samples(40, size_bytes=5000)))
    small = settings_for(images_per_unit=10)
    units = read_all(shard, small)
    monkeypatch.setattr(forward_reader, "BLOCK_BYTES", 4096)
    read_bytes = count_reads(monkeypatch)
    assert list(read_units(shard, [ReadRange(0, 10)], small, LOCAL)) == units[:1]
    assert sum(read_bytes) < 12 * 7000


def test_several_ranges_in_one_call(tmp_path: Path) -> None:
    shard, small = make_shard(tmp_path, make_tar(samples(9))), settings_for(images_per_unit=2)
    units = read_all(shard, small)
    ranges = [ReadRange(2, 4, units[0].resume_offset), ReadRange(6, None, units[2].resume_offset)]
    found = list(read_units(shard, ranges, small, LOCAL, keys_before(units)))
    assert found == [units[1], units[3], units[4]]


def test_shards_without_images(tmp_path: Path) -> None:
    for content in (make_tar([]), make_tar([("a.json", b"{}")])):
        (unit,) = read_all(make_shard(tmp_path, content))
        assert (unit.range.first, unit.range.count, unit.range.is_last, unit.images) == (0, 0, True, ())
        assert unit.shard_error is None


def test_cut_inside_an_image(tmp_path: Path) -> None:
    archive = make_tar(samples(3, size_bytes=2000))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        cut = tar.getmember("000002.jpg").offset_data + 700
    shard = make_shard(tmp_path, archive[:cut])
    (unit,) = read_all(shard)
    assert [image.error_kind for image in unit.images] == [None, None, "truncated_shard"]
    assert unit.images[2].key == "000002.jpg"
    assert unit.range.is_last
    assert unit.shard_error is not None
    assert "700 of its 2000 bytes" in unit.shard_error
    assert unit.images[2].error_message == unit.shard_error


def test_cut_between_members(tmp_path: Path) -> None:
    archive = make_tar([("a.jpg", b"x" * 512), ("a.json", b"{}")])
    (unit,) = read_all(make_shard(tmp_path, archive[:2048]))
    assert [(image.key, image.error_kind) for image in unit.images] == [
        ("a.jpg", None),
        ("(end of shard)", "truncated_shard"),
    ]


ONE = settings_for(images_per_unit=1)


def _rows(shard: Shard) -> list[tuple[str, bytes]]:
    """Keys and contents, and that they are the same from every unit on."""
    units = read_all(shard, ONE)
    assert_same_from_every_unit(shard, ONE, units)
    assert units[-1].shard_error is None
    broken = [image for image in images_of(units) if image.error_kind is not None]
    assert all(image.error_kind == "truncated_shard" and "is missing" in str(image.error_message) for image in broken)
    return [(image.key, image.data) for image in images_of(units)]


@pytest.mark.parametrize("place", [10, 150, 130, 258, 156], ids=["name", "checksum", "size", "magic", "type"])
def test_a_broken_header_loses_its_member_and_no_other(tmp_path: Path, place: int) -> None:
    nested = make_tar([("inner.jpg", b"i")])
    archive = bytearray(make_tar([("a.jpg", b"x"), ("b.jpg", b"y" * 700), ("c.jpg", b"z"), ("d.tar", nested)]))
    archive[1024 + place] ^= 0xFF
    found = _rows(make_shard(tmp_path, bytes(archive)))
    assert found == [("a.jpg", b"x"), ("(bytes 1024 to 2560)", b""), ("c.jpg", b"z")]


def test_a_size_that_still_can_be_read_is_believed_where_the_archive_goes_on_there(tmp_path: Path) -> None:
    nested = make_tar([("inner.jpg", b"i")])
    archive = bytearray(make_tar([("a.tar", nested), ("b.jpg", b"1")]))
    archive[0] ^= 0xFF
    assert _rows(make_shard(tmp_path, bytes(archive))) == [(f"(bytes 0 to {512 + len(nested)})", b""), ("b.jpg", b"1")]


def test_a_hole_of_zeros_or_rubbish_over_several_members(tmp_path: Path) -> None:
    members = [(f"{number}.jpg", bytes([65 + number]) * 600) for number in range(6)]
    for filler in (b"\0", b"#"):
        archive = bytearray(make_tar(members))
        archive[1536 + 700 : 1536 * 4 - 100] = filler * (1536 * 3 - 800)
        found = _rows(make_shard(tmp_path, bytes(archive)))
        assert [key for key, _ in found] == ["0.jpg", "1.jpg", "(bytes 3072 to 6144)", "4.jpg", "5.jpg"]
        assert found[3:] == members[4:]


def test_archives_that_were_joined_are_read_on(tmp_path: Path) -> None:
    first, second = make_tar([("a.jpg", b"1")]), make_tar([("b.jpg", b"2"), ("a.jpg", b"3")])
    units = read_all(make_shard(tmp_path, first + second), ONE)
    assert [image.error_kind for image in images_of(units)] == [None, "truncated_shard", None, "duplicate_key"]
    assert "archives that were joined" in str(images_of(units)[1].error_message)
    assert_same_from_every_unit(make_shard(tmp_path, first + second), ONE, units)


@pytest.mark.parametrize(("place", "value"), [(0, 0xFF), (600, 0xFF)], ids=["its header", "its content"])
def test_a_member_whose_long_name_is_broken_is_not_read_under_a_short_one(
    tmp_path: Path, place: int, value: int
) -> None:
    long = "n" * 300 + ".jpg"
    archive = bytearray(make_tar([("a.jpg", b"1"), (long, b"2"), ("c.jpg", b"3")]))
    archive[1024 + place] ^= value
    if place >= 512:
        archive[1024 + 512] ^= value  # the length of its first record
    assert [key for key, _ in _rows(make_shard(tmp_path, bytes(archive)))] == [
        "a.jpg",
        "(bytes 1024 to 3072)",
        "c.jpg",
    ]


def test_several_broken_places(tmp_path: Path) -> None:
    archive = bytearray(make_tar([(f"{number}.jpg", b"x" * 20) for number in range(9)]))
    for number in (0, 3, 4, 8):
        archive[number * 1024 + 5] ^= 0xFF
    keys = [key for key, _ in _rows(make_shard(tmp_path, bytes(archive)))]
    assert [key for key in keys if key.startswith("(")] == [
        "(bytes 0 to 1024)",
        "(bytes 3072 to 5120)",
        "(bytes 8192 to 9216)",
    ]
    assert [key for key in keys if not key.startswith("(")] == [f"{number}.jpg" for number in (1, 2, 5, 6, 7)]


def test_nothing_is_searched_in_a_file_that_is_no_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_reader, "BLOCK_BYTES", 4096)
    shard = make_shard(tmp_path, b"PK zip" * 100_000 + make_tar([("a.jpg", b"1")]))
    lengths = count_reads(monkeypatch)
    (unit,) = read_all(shard)
    assert [image.error_kind for image in unit.images] == ["truncated_shard"]
    assert sum(lengths) == 4096


@pytest.mark.parametrize("seed", range(20))
def test_rubbish_anywhere_is_read_the_same_from_every_unit(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    members = [(f"{number}.{'jpg' if number % 3 else 'tar'}", make_tar(samples(1))) for number in range(8)]
    members[source.randrange(8)] = ("n" * 200 + ".jpg", b"long")
    archive = bytearray(make_tar(members, source.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])))
    for _ in range(source.randrange(1, 4)):
        first, length = source.randrange(len(archive)), source.randrange(1, 3_000)
        archive[first : first + length] = source.choice([bytes, source.randbytes])(len(archive[first : first + length]))
    shard = make_shard(tmp_path, bytes(archive))
    units = read_all(shard, ONE)
    assert_same_from_every_unit(shard, ONE, units)


def test_file_that_is_no_tar(tmp_path: Path) -> None:
    (unit,) = read_all(make_shard(tmp_path, b"<html>not found</html>" * 100))
    assert [image.error_kind for image in unit.images] == ["truncated_shard"]


def test_missing_shard_is_a_storage_error(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, make_tar(samples(1)))
    Path(shard.uri).unlink()
    with pytest.raises(StorageError, match="nothing at"):
        read_all(shard)


def test_changed_shard_is_refused(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, make_tar(samples(1)))
    Path(shard.uri).write_bytes(make_tar(samples(30)))
    with pytest.raises(StorageError, match=r"shard\.tar changed while the run"):
        read_all(shard)


def test_shard_with_fewer_images_than_were_seen(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, make_tar(samples(4)))
    for wanted in (ReadRange(4), ReadRange(2, 6)):
        with pytest.raises(StorageError, match="has 4 images"):
            list(read_units(shard, [wanted], settings_for(images_per_unit=2), LOCAL))


def test_storage_that_stumbles_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(tmp_path, make_tar(samples(40, size_bytes=3000)))
    expected = read_all(shard)
    monkeypatch.setattr(forward_reader, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(ranged_file, "RETRY_DELAYS_S", (0.0, 0.0))
    stumbling = _Stumbling(monkeypatch, every=5)
    assert read_all(shard) == expected
    assert stumbling.failures > 5


def test_storage_that_stays_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_shard(tmp_path, make_tar(samples(4, size_bytes=3000)))
    monkeypatch.setattr(ranged_file, "RETRY_DELAYS_S", (0.0, 0.0))
    stumbling = _Stumbling(monkeypatch, every=1)
    with pytest.raises(StorageError, match=r"shard\.tar"):
        read_all(shard)
    assert stumbling.failures == 3


class _Stumbling:
    """Every so many reads of a local file fail, in one of two ways: an error, or too few bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
        from fsspec.implementations.local import LocalFileSystem

        self.calls = self.failures = 0
        original = LocalFileSystem.cat_file

        def cat_file(filesystem: LocalFileSystem, path: str, start: int, end: int) -> bytes:
            self.calls += 1
            data: bytes = original(filesystem, path, start=start, end=end)
            if self.calls % every:
                return data
            self.failures += 1
            if self.failures % 2:
                raise OSError(5, "Input/output error")
            return data[:-1]

        monkeypatch.setattr(LocalFileSystem, "cat_file", cat_file)


# --- properties -------------------------------------------------------------------------------------------------------

_NAMES = st.text(st.sampled_from("ab/é.0"), min_size=1, max_size=6)
_EXTENSIONS = st.sampled_from(["jpg", "PNG", "json", "seg.png", "txt"])
_MEMBERS = st.lists(st.tuples(st.integers(0, 6), _NAMES, _EXTENSIONS, st.integers(0, 1500), st.booleans()), max_size=14)
_FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
_RELAXED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _build(members: list[tuple[int, str, str, int, bool]], tar_format: int) -> bytes:
    named = []
    for number, stem, extension, size, is_long in members:
        folder = "long/" * 40 if is_long else ""
        named.append((f"{folder}{number}{stem.strip('/.')}.{extension}", bytes([number]) * size))
    return make_tar(named, tar_format)


@_RELAXED
@given(members=_MEMBERS, tar_format=_FORMATS, images_per_unit=st.integers(1, 5))
def test_any_unit_start_equals_the_whole(
    tmp_path: Path, members: list[tuple[int, str, str, int, bool]], tar_format: int, images_per_unit: int
) -> None:
    shard = make_shard(tmp_path, _build(members, tar_format))
    small = settings_for(images_per_unit=images_per_unit)
    units = read_all(shard, small)
    _check_invariants(units, images_per_unit)
    assert_same_from_every_unit(shard, small, units)


def _check_invariants(units: list[Unit], images_per_unit: int) -> None:
    assert [unit.range.is_last for unit in units] == [False] * (len(units) - 1) + [True]
    assert [image.index for image in images_of(units)] == list(range(sum(unit.range.count for unit in units)))
    assert [unit.range.first for unit in units[1:]] == [unit.range.end for unit in units[:-1]]
    assert all(unit.range.count == images_per_unit for unit in units[:-1])
    assert all(unit.resume_offset is not None for unit in units[:-1])
    assert units[-1].resume_offset is None
    fine = [split_member_name(image.key) for image in images_of(units) if image.error_kind != "duplicate_key"]
    assert None not in fine
    assert len(fine) == len({parts[0] for parts in fine if parts})


@_RELAXED
@given(members=_MEMBERS, tar_format=_FORMATS, where=st.floats(0, 1))
def test_a_cut_anywhere_keeps_the_images_before_it(
    tmp_path: Path, members: list[tuple[int, str, str, int, bool]], tar_format: int, where: float
) -> None:
    archive = _build(members, tar_format)
    content_end = len(archive.rstrip(b"\0"))
    cut = int(where * min(-(-content_end // 512) * 512, len(archive) - 1024))
    whole = images_of(read_all(make_shard(tmp_path, archive)))
    (unit,) = read_all(make_shard(tmp_path, archive[:cut]))
    assert unit.shard_error is not None
    assert unit.images[-1].error_kind == "truncated_shard"
    kept = unit.images[:-1]
    # The last one may lack side files, or a rival image, that stood behind the cut.
    assert list(kept[:-1]) == whole[: max(len(kept) - 1, 0)]
    assert [image.index for image in unit.images] == list(range(len(unit.images)))


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_never_escape(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    archive = bytearray(make_tar(samples(6, size_bytes=300)))
    for _ in range(3):
        archive[source.randrange(len(archive))] ^= 1 << source.randrange(8)
    units = read_all(make_shard(tmp_path, bytes(archive)), settings_for(images_per_unit=2))
    assert units[-1].range.is_last
    assert_same_from_every_unit(make_shard(tmp_path, bytes(archive)), settings_for(images_per_unit=2), units)
