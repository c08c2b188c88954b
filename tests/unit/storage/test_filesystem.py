from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError
from sam3lt_ray.storage.filesystem import open_filesystem
from sam3lt_ray.storage.store import open_store


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    for uri, path in {
        "runs/one": f"{tmp_path}/runs/one",
        "./a/../b/": f"{tmp_path}/b",
        "/data/a b#c?d%20": "/data/a b#c?d%20",
        "file:///data/x": "/data/x",
        "file://localhost/data/x": "/data/x",
        "~/runs": "/home/somebody/runs",
    }.items():
        assert open_filesystem(uri, StorageSettings())[1] == path


def test_local_filesystem_reads(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"content")
    filesystem, path = open_filesystem(str(tmp_path / "a.txt"), StorageSettings())
    assert pickle.loads(pickle.dumps(filesystem)).cat_file(path) == b"content"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gs://bucket/x", r"The scheme gs:// is not supported\. Supported are local paths, .*s3://bucket/path"),
        ("https://host/x", r"https:// is not supported"),
        ("s3a://bucket/x", r"Write s3:// instead"),
        ("", "The location is empty"),
        ("  ", "The location is empty"),
        ("s3://", "a bucket's name does not follow"),
        ("s3:///key", "a bucket's name does not follow"),
        ("s3://b/x", "bucket's name in s3://b/ is too short"),
        ("file://host/data", "names a host"),
        ("/data/\0", "NUL"),
    ],
)
def test_other_locations_are_refused(uri: str, expected: str) -> None:
    for function in (open_filesystem, open_store):
        with pytest.raises(InputError, match=expected):
            function(uri, StorageSettings())


@pytest.mark.parametrize("uri", ["s3://AKIAPLANTED:pl/anted@bucket/x", "s3://key:secret@bucket/x"])
def test_credentials_in_a_uri_are_not_repeated(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        open_filesystem(uri, StorageSettings())
    assert not any(part in caught.value.message for part in ("PLANTED", "anted@", "secret"))


def test_s3_settings_reach_the_client() -> None:
    settings = StorageSettings(
        endpoint_url="http://127.0.0.1:9", region="eu-west-1", profile="labeling", requester_pays=True
    )
    filesystem, path = open_filesystem("s3://bucket/shards/train/", settings)
    assert path == "bucket/shards/train"
    for fs in (filesystem, pickle.loads(pickle.dumps(filesystem))):
        assert fs.endpoint_url == "http://127.0.0.1:9"
        assert fs.client_kwargs == {"region_name": "eu-west-1"}
        assert fs.kwargs == {"profile": "labeling"}
        assert fs.req_kw == {"RequestPayer": "requester"}
        assert fs.anon is False
        assert fs.dircache.use_listings_cache is False
    assert open_filesystem("s3://bucket", StorageSettings(anonymous=True))[0].anon is True


def test_local_runs_import_no_s3_client() -> None:
    program = (
        "import sys\n"
        "from sam3lt_ray.config.schema import StorageSettings\n"
        "from sam3lt_ray.storage.store import open_store\n"
        "open_store('.', StorageSettings())\n"
        "assert not {'s3fs', 'botocore', 'aiohttp', 'ray', 'torch'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
