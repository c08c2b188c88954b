from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from sam3lt_ray.errors import StorageError
from sam3lt_ray.inputs import loose_files, ranged_file
from sam3lt_ray.inputs.loose_files import REPEATED_KEY_URI
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.records import LooseFile, ReadRange, Shard
from tests.unit.inputs.shard_files import LOCAL, assert_same_from_every_unit, images_of, read_all, settings_for

FOLDER = settings_for("folder", images_per_unit=4, max_image_mb=1)


def make_group(folder: Path, contents: dict[str, bytes]) -> Shard:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    members = tuple(LooseFile(name, str(folder / name)) for name in contents)
    return Shard("group-000000", str(folder), members=members)


def test_files_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(tmp_path, {f"{number}.jpg": bytes([number]) for number in range(23)})
    original = loose_files._read_file

    def slow_first(task: loose_files._Task, *rest: object) -> object:
        time.sleep(0.02 if task.index % 8 == 0 else 0)
        return original(task, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loose_files, "_read_file", slow_first)
    units = read_all(group, FOLDER)
    assert [image.data for image in images_of(units)] == [bytes([number]) for number in range(23)]
    assert [image.key for image in images_of(units)] == [f"{number}.jpg" for number in range(23)]
    assert [unit.range.count for unit in units] == [4] * 5 + [3]
    assert_same_from_every_unit(group, FOLDER, units)


def test_images_of_formats_that_are_not_decoded_are_rows(tmp_path: Path) -> None:
    contents = {"a.CR2": b"II*\0 a TIFF", "b.pdf": b"%PDF-1.7", "c.heic": b"\xff\xd8\xff a JPEG", "d.tga": b"no mark"}
    images = images_of(read_all(make_group(tmp_path, contents), FOLDER))
    assert [image.error_kind for image in images] == ["unsupported", "unsupported", None, "unsupported"]
    assert images[2].data == contents["c.heic"]
    sentences = [(image.error_message or "").partition(";")[0] for image in images]
    assert sentences == ["The file is camera raw (.cr2)", "The file is PDF", "", "The file is a .tga file"]


def test_unusable_files_are_rows(tmp_path: Path) -> None:
    group = make_group(tmp_path, {"a.jpg": b"1", "empty.jpg": b"", "big.jpg": bytes(2**20 + 1), "gone.jpg": b"x"})
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "folder.jpg").mkdir()
    members = (
        *group.members,
        LooseFile("a.jpg", REPEATED_KEY_URI),
        LooseFile("folder.jpg", str(tmp_path / "folder.jpg")),
        LooseFile("z.jpg", str(tmp_path / "a.jpg")),
    )
    images = images_of(read_all(Shard("g", str(tmp_path), members=members), FOLDER))
    assert [image.error_kind for image in images] == [
        None,
        "empty",
        "too_large",
        "unreadable",
        "duplicate_key",
        "unreadable",
        None,
    ]
    assert "1,048,577 bytes" in str(images[2].error_message)
    assert "gone.jpg" in str(images[3].error_message)


def test_storage_that_may_recover_is_no_verdict_on_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(tmp_path, {f"{number}.jpg": b"x" for number in range(3)})
    monkeypatch.setattr(ranged_file, "RETRY_DELAYS_S", (0.0,))
    calls: list[str] = []

    def fail(filesystem: object, path: str, num_bytes: int) -> bytes:
        calls.append(path)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(loose_files, "_read_start", fail)
    with pytest.raises(StorageError, match=r"\.jpg"):
        read_all(group, FOLDER)
    assert calls.count(str(tmp_path / "0.jpg")) == 2


def test_rejected_credentials_are_no_verdict_on_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(tmp_path, {"a.jpg": b"x"})
    error = PermissionError("rejected")
    error.response = {"Error": {"Code": "InvalidAccessKeyId"}}  # type: ignore[attr-defined]

    def fail(filesystem: object, path: str, num_bytes: int) -> bytes:
        raise error

    monkeypatch.setattr(loose_files, "_read_start", fail)
    with pytest.raises(StorageError, match="does not accept the credentials"):
        read_all(group, FOLDER)
    error.response = {"Error": {"Code": "AccessDenied"}}  # type: ignore[attr-defined]
    assert [image.error_kind for image in images_of(read_all(group, FOLDER))] == ["unreadable"]


def test_names_that_no_file_can_have_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged_file, "RETRY_DELAYS_S", (3_600.0,))  # nothing is tried again
    (tmp_path / "ok.png").write_bytes(b"x")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ["n" * 300 + ".png", "loop.png", "ok.png"]
    members = tuple(LooseFile(name, str(tmp_path / name)) for name in names)
    images = images_of(read_all(Shard("g", str(tmp_path), members=members), FOLDER))
    assert [image.error_kind for image in images] == ["unreadable", "unreadable", None]
    sentences = ["name that is too long", "link that leads back to itself"]
    for image, sentence in zip(images, sentences, strict=False):
        assert sentence in str(image.error_message)


@pytest.mark.parametrize(
    ("code", "number"), [("KeyTooLongError", errno.ENAMETOOLONG), ("InvalidURI", errno.EINVAL), ("InternalError", 5)]
)
def test_keys_that_s3_cannot_have_are_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, number: int
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    group = make_group(tmp_path, {"a.jpg": b"x"})
    error = OSError(number, "as s3fs says it")
    error.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}  # type: ignore[attr-defined]

    def fail(filesystem: object, path: str, **options: object) -> bytes:
        raise error

    monkeypatch.setattr(LocalFileSystem, "cat_file", fail)
    if code == "InternalError":
        with pytest.raises(StorageError, match="InternalError"):
            read_all(group, FOLDER)
    else:
        assert [image.error_kind for image in images_of(read_all(group, FOLDER))] == ["unreadable"]


def test_few_files_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(tmp_path, {f"{number:03}.jpg": b"x" for number in range(100)})
    started: list[int] = []
    original = loose_files._read_file

    def noted(task: loose_files._Task, *rest: object) -> object:
        started.append(task.index)
        return original(task, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loose_files, "_read_file", noted)
    units = read_units(group, [ReadRange(40)], FOLDER, LOCAL)
    assert next(units).range.first == 40
    units.close()  # type: ignore[attr-defined]
    assert min(started) == 40
    assert max(started) <= 40 + 5 + loose_files.NUM_THREADS
