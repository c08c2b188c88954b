"""Long listings are asked for in parts; on every server all that is there comes, once, whatever the keys."""

from __future__ import annotations

import pytest

from sam3lt_ray.storage import s3_filesystem, split_listing
from sam3lt_ray.storage.failures import RepeatedlyFailedError
from sam3lt_ray.storage.filesystem import open_filesystem
from sam3lt_ray.storage.s3_filesystem import PatientS3FileSystem
from sam3lt_ray.storage.split_listing import PartsDoNotJoinError
from tests.servers.faults import Fault
from tests.servers.moto_s3 import MotoS3
from tests.servers.s3_server import S3Bucket

PAGE_KEYS = 5
NUMBERED = [f"data/{number:05d}.tar" for number in range(120)]
FOLDERS = ("a", "a-b", "a.b", "a b", "é", "\U0001f600", "a+b%20c")
ODD = [
    *(f"data/{folder}/{number}" for folder in FOLDERS for number in range(9)),
    *(f"data/{first}{number}.tar" for first in ("\ud7ff", "\ue000", "~", "Z") for number in range(9)),
]


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_filesystem, "PAGE_KEYS", PAGE_KEYS)


@pytest.fixture(params=["moto", "seaweed"])
def bucket(request: pytest.FixtureRequest) -> S3Bucket:
    bucket: S3Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return bucket


def listed(bucket: S3Bucket, prefix: str = "data/") -> list[str]:
    filesystem = open_filesystem(bucket.uri(), bucket.storage())[0]
    assert isinstance(filesystem, PatientS3FileSystem)
    return filesystem.list_objects(bucket.name, prefix, lambda entry: str(entry["Key"]))


@pytest.mark.parametrize("names", [NUMBERED, ODD, [*NUMBERED, *ODD]], ids=["numbered", "odd", "both"])
def test_everything_comes_once(bucket: S3Bucket, names: list[str]) -> None:
    bucket.put_all(dict.fromkeys([*names, "other/x", "dat", "data.tar"], b"1"))
    assert sorted(listed(bucket)) == sorted(names)
    assert sorted(listed(bucket, "data/0001")) == sorted(name for name in names if name.startswith("data/0001"))
    assert listed(bucket, "nothing/") == []


def test_parts_join_on_every_server_here(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []
    joined = split_listing.SplitListing.joined

    def counted(listing: split_listing.SplitListing[str]) -> list[str]:
        parts.append(len(listing._parts))
        return joined(listing)

    monkeypatch.setattr(split_listing.SplitListing, "joined", counted)
    bucket.put_all(dict.fromkeys(NUMBERED, b"1"))
    assert listed(bucket) == NUMBERED
    assert len(parts) == 1  # not once more, one page after another
    assert parts[0] > 3


def test_one_page_after_another_where_parts_do_not_join(
    moto_bucket: S3Bucket, moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(listing: object) -> list[str]:
        monkeypatch.undo()
        monkeypatch.setattr(s3_filesystem, "PAGE_KEYS", PAGE_KEYS)
        moto_s3.forget_requests()
        raise PartsDoNotJoinError

    moto_bucket.put_all(dict.fromkeys(NUMBERED, b"1"))
    monkeypatch.setattr(split_listing.SplitListing, "joined", refuse)
    assert listed(moto_bucket) == NUMBERED
    assert moto_s3.counts == {"ListObjectsV2": len(NUMBERED) // PAGE_KEYS}


def test_pages_that_fail_are_asked_for_again_and_not_for_ever(
    moto_bucket: S3Bucket, moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_filesystem, "pause_before_retry_s", lambda _: 0.001)
    moto_bucket.put_all(dict.fromkeys(NUMBERED, b"1"))
    for action in ("refuse", "cut_body", "short_body"):
        moto_s3.spoil(Fault(action, 3, "ListObjectsV2", after=6))
        assert listed(moto_bucket) == NUMBERED
    moto_s3.spoil(Fault("refuse", 1000, "ListObjectsV2", after=8))
    with pytest.raises(RepeatedlyFailedError):
        listed(moto_bucket)
