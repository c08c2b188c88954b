"""What only a store on a file system has to cope with; the rest is in tests/contracts/test_store.py."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError, StorageError
from sam3lt_ray.storage import local_store
from sam3lt_ray.storage.local_store import LocalStore

ABANDONED = ".sam3lt-tmp-0123"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "run"), StorageSettings())


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refuse_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def link(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_without_hard_links_there_is_still_one_winner(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_links(monkeypatch, number)
    start = threading.Barrier(16)

    def write(writer: int) -> bool:
        start.wait(30)
        return store.create("labels/unit", str(writer).encode())

    for _ in range(10):
        with ThreadPoolExecutor(16) as pool:
            told = list(pool.map(write, range(16)))
        assert sum(told) == 1
        assert store.read("labels/unit") == str(told.index(True)).encode()
        assert everything_in(tmp_path) == ["run/labels/unit"]
        store.delete("labels/unit")


def test_failure_leaves_nothing(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch, errno.EIO)
    with pytest.raises(StorageError, match="EIO"):
        store.create("labels/unit", b"x")
    assert everything_in(tmp_path) == []
    assert not store.exists("labels/unit")


def test_full_disk(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create("old", b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "planted")

    monkeypatch.setattr(os, "fsync", no_space)
    for write in (store.create, store.replace):
        with pytest.raises(StorageError, match="The disk is full"):
            write("new", b"new")
    with pytest.raises(StorageError, match="The disk is full"):
        store.replace("old", b"new")
    assert everything_in(tmp_path) == ["run/old"]
    assert store.read("old") == b"old"


def test_unfinished_files_are_no_files(store: LocalStore, tmp_path: Path) -> None:
    store.create("labels/unit", b"x")
    labels = tmp_path / "run" / "labels"
    old, young = labels / ABANDONED, labels / f"{ABANDONED}4"
    for file in (old, young):
        file.write_bytes(b"half")
    an_hour_ago_s = time.time() - 3700
    os.utime(old, (an_hour_ago_s, an_hour_ago_s))
    assert [file.path for file in store.list()] == ["labels/unit"]
    assert not old.exists()
    assert young.exists()


def test_what_killed_writers_left_is_removed_everywhere(store: LocalStore, tmp_path: Path) -> None:
    store.remove_abandoned()  # of a run that is not there yet
    run = tmp_path / "run"
    for path in ("run.json", "lease/00000001.json", "pass/1/a.json", "labels/000/a/unit"):
        store.create(path, b"x")
    an_hour_ago_s = time.time() - 3700
    for folder in ("", "lease", "pass/1", "labels/000"):
        old, young = run / folder / ABANDONED, run / folder / f"{ABANDONED}4"
        for file in (old, young):
            file.write_bytes(b"half")
        os.utime(old, (an_hour_ago_s, an_hour_ago_s))
    store.remove_abandoned()
    assert [path.relative_to(run).as_posix() for path in run.rglob(ABANDONED)] == [f"labels/000/{ABANDONED}"]
    assert len(list(run.rglob(f"{ABANDONED}4"))) == 4
    assert len(list(store.list(""))) == 4


def test_file_in_the_way_of_a_directory(store: LocalStore) -> None:
    store.create("labels", b"a file")
    for write in (store.create, store.replace):
        with pytest.raises(InputError, match="a part of this path is a file"):
            write("labels/unit", b"x")
    store.create("report/index.html", b"x")
    for write in (store.create, store.replace):
        with pytest.raises(InputError, match="report is a directory, expected a file"):
            write("report", b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_directory(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(InputError, match="This user may not access"):
        store.create("run.json", b"x")


def test_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore("run", StorageSettings())
    monkeypatch.chdir("/")
    assert store.create("run.json", b"{}")
    assert store.location("run.json") == str(tmp_path / "run" / "run.json")
    assert everything_in(tmp_path) == ["run/run.json"]


def test_permissions_follow_the_umask(store: LocalStore, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store.create("run.json", b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "run" / "run.json").stat().st_mode & 0o777 == 0o640


def test_a_place_where_no_folder_can_be_is_told_as_it_was_named() -> None:
    """Not even root makes folders in /proc."""
    store = LocalStore("/proc/no/run", StorageSettings())
    for write in (store.create, store.replace):
        with pytest.raises(InputError, match=r"No folder can be made at /proc/no/run .*run\.output"):
            write("lease/00000001.json", b"{}")


def test_the_root_of_a_volume_is_a_place_like_others(store: LocalStore) -> None:
    rescued = Path(store.uri) / "lost+found" / "#123"
    rescued.parent.mkdir(parents=True)
    rescued.write_bytes(b"whatever the file system found")
    store.create("run.json", b"{}")
    assert [item.path for item in store.list("")] == ["run.json"]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.EACCES, "This user may not access {}. Change"), (errno.EROFS, "{} is on a file system that is mounted")],
)
def test_where_nothing_may_be_written_the_place_is_named_and_no_file_in_it(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    store.create("lease/00000001.json", b"{}")
    monkeypatch.setattr(local_store, "_write_temporary", refuse)
    for write in (store.create, store.replace):
        with pytest.raises(InputError, match=re.escape(sentence.format(store.uri))):
            write("lease/00000002.json", b"{}")
