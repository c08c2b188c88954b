from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3lt_ray.errors import InputError
from sam3lt_ray.inputs.listing import describe_files, list_input, list_shards
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import ReadRange, Shard
from tests.unit.inputs.shard_files import LOCAL, images_of, make_tar, samples, settings_for


def list_at(uri: Path | str, input_format: str = "webdataset", **changes: object) -> list[Shard]:
    return list_shards(settings_for(input_format, uri=str(uri), **changes), LOCAL)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_folder_of_tars_is_listed_recursively_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.tar", "a/2.tar", "a/1.TAR", "a/1.tar.md5", ".hidden.tar", ".cache/3.tar", "notes.txt")
    shards = list_at(tmp_path)
    assert [shard.name for shard in shards] == ["a/1.TAR", "a/2.tar", "b.tar"]
    status = (tmp_path / "b.tar").stat()
    assert (shards[2].uri, shards[2].size_bytes) == (str(tmp_path / "b.tar"), 5)
    assert shards[2].version == f"{round(status.st_mtime * 1e9)}-5"
    assert shards[2].members == ()


def test_tars_that_were_made_into_something_else_are_what_they_are_now(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "a.tar.parquet")
    touch(tmp_path, "b.tar.gz", "c.parquet.tar")
    assert [shard.name for shard in list_at(tmp_path, "parquet")] == ["a.tar.parquet"]


def test_single_file_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "x/b.tar", "x/a.tar")
    monkeypatch.chdir(tmp_path)
    for uri in ("x/b.tar", tmp_path / "x/b.tar", f"file://{tmp_path}/x/b.tar"):
        (shard,) = list_at(uri)
        assert (shard.name, shard.uri) == ("b.tar", str(tmp_path / "x/b.tar"))


def test_listed_shards_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(make_tar(samples(3)))
    (shard,) = list_at(tmp_path)
    assert len(images_of(read_units(shard, [ReadRange()], settings_for(), LOCAL))) == 3


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "data/train/a.tar", "elsewhere/b.tar")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/train/up").symlink_to(tmp_path / "data")
    assert [shard.name for shard in list_at(tmp_path / "data")] == ["linked/b.tar", "train/a.tar"]


def test_a_link_to_itself_is_listed_and_told_when_it_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (group,) = list_at(tmp_path, "folder")
    assert [(member.key, member.version is None) for member in group.members] == [("a.png", False), ("loop.png", True)]


@pytest.mark.parametrize(
    ("names", "input_format", "message"),
    [
        (["1.parquet", "2.parquet"], "webdataset", r"found 2 \.parquet files\. Did you mean input\.format: parquet\?"),
        (["1.tar"], "parquet", r"found 1 \.tar file\. Did you mean input\.format: webdataset\?"),
        (["1.tar", "x.txt"], "folder", "Did you mean input.format: webdataset"),
        (["1.jpg", "2.PNG"], "webdataset", "Did you mean input.format: folder"),
        (["README", "a.xyz"], "webdataset", r"found 1 file without an extension, 1 \.xyz file\. Check input\.uri"),
        (["a.tar.gz", "b.tar"], "webdataset", r"Compressed tars .*a\.tar\.gz\. Decompress them"),
        (["a.tgz"], "webdataset", "Compressed tars"),
        (["_metadata.parquet", "_tmp/a.parquet"], "parquet", "there are none below"),
        (["a.jpg"], "manifest", "must name one manifest file .* is a folder"),
        ([".x.tar"], "webdataset", "holds no files"),
        ([f"{letter}.{letter}" for letter in "abcdef"], "webdataset", "and 2 others"),
    ],
)
def test_other_things_found(tmp_path: Path, names: list[str], input_format: str, message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=message) as caught:
        list_at(tmp_path, input_format)
    assert str(tmp_path) in caught.value.message


def test_wrong_single_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet", "list.csv")
    with pytest.raises(InputError, match=r"a\.parquet is not one; found 1 \.parquet file\. Did you mean"):
        list_at(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"Did you mean input\.format: manifest"):
        list_at(tmp_path / "list.csv", "folder")


@pytest.mark.parametrize("input_format", ["webdataset", "parquet", "folder", "manifest"])
def test_wrong_locations(tmp_path: Path, input_format: str) -> None:
    with pytest.raises(InputError, match=f"nothing at {tmp_path}/no/such; {tmp_path} is there"):
        list_at(tmp_path / "no/such", input_format)
    with pytest.raises(InputError, match="holds no files"):
        list_at(tmp_path, input_format)
    for uri in ("gs://bucket/x", "s3a://bucket/x", "https://host/x"):
        with pytest.raises(InputError, match="is not supported"):
            list_at(uri, input_format)
    with pytest.raises(InputError, match="bucket's name does not follow"):
        list_at("s3://", input_format)


def test_a_location_whose_name_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: File name too long\. Check input\.uri"):
        list_at(tmp_path / ("n" * 300), "folder")


def test_denied_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.tar")

    def deny(folder: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", deny)
    with pytest.raises(InputError, match="may not access"):
        list_at(tmp_path)


def test_parquet_columns_are_checked_before_the_run(tmp_path: Path) -> None:
    pq.write_table(pa.table({"left": [b"1"], "right": [b"2"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"Several columns .*a\.parquet"):
        list_at(tmp_path, "parquet")
    assert [shard.name for shard in list_at(tmp_path, "parquet", image_column="left")] == ["a.parquet"]


def test_damaged_parquet_files_are_still_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet")
    assert [shard.name for shard in list_at(tmp_path, "parquet")] == ["a.parquet"]


def test_file_names_no_table_can_hold(tmp_path: Path) -> None:
    (tmp_path / b"caf\xe9.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    with pytest.raises(InputError, match="not valid UTF-8"):
        list_at(tmp_path, "folder")


def test_folder_groups(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a/2.jpg", "a/1.jpg", "a/1.txt", ".x/h.jpg", "c.Jpeg")
    first, second = list_at(tmp_path, "folder", images_per_group=3)
    assert (first.name, second.name) == ("group-000000", "group-000001")
    assert [member.key for member in first.members] == ["a/1.jpg", "a/2.jpg", "b.PNG"]
    assert [member.uri for member in second.members] == [str(tmp_path / "c.Jpeg")]
    assert first.uri == str(tmp_path)
    assert first.size_bytes == len("a/1.jpg" + "a/2.jpg" + "b.PNG")
    assert first.version is not None
    assert first.version != second.version


def test_single_image_is_a_folder_of_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (group,) = list_at(tmp_path / "a.jpg", "folder")
    assert [member.key for member in group.members] == ["a.jpg"]


def test_columns_are_looked_at_in_the_first_parquet_file_that_can_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet")
    pq.write_table(pa.table({"image": [b"1"], "other": [b"1"]}), tmp_path / "b.parquet")
    assert len(list_at(tmp_path, "parquet", image_column="image")) == 2
    with pytest.raises(InputError, match=r"The column 'img' \(input.image_column\) of .*b\.parquet does not exist"):
        list_at(tmp_path, "parquet", image_column="img")


def test_images_that_cannot_be_decoded_are_members_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.HEIC", "c.svg", "d.pdf", "e.nef", "f.txt", "g.TXT", "h")
    listed = list_input(settings_for("folder", uri=str(tmp_path)), LOCAL)
    assert [member.key for shard in listed.shards for member in shard.members] == [
        *("a.jpg", "b.HEIC", "c.svg", "d.pdf", "e.nef")
    ]
    assert listed.passed_over == {"txt": 2, "": 1}
    assert describe_files(listed.passed_over) == "2 .txt files, 1 file without an extension"


def test_groups_of_a_run_keep_their_images_where_undecoded_ones_join_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "c.jpg")
    known = list_at(tmp_path, "folder")
    touch(tmp_path, "b.heic")
    groups = list_input(settings_for("folder", uri=str(tmp_path)), LOCAL, known).shards
    assert [[member.key for member in group.members] for group in groups] == [["a.jpg", "c.jpg"], ["b.heic"]]


def test_a_folder_without_anything_that_is_decoded_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "b.pdf")
    with pytest.raises(InputError, match=r"found 1 \.heic file, 1 \.pdf file"):
        list_at(tmp_path, "folder")


def test_files_beside_shards_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar", "b.tar", "index.json", "notes.txt")
    assert list_input(settings_for(uri=str(tmp_path)), LOCAL).passed_over == {"json": 1, "txt": 1}
