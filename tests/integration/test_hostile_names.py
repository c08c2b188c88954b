"""Names of shards and images that would like to be paths, markup or orders to a terminal, through whole runs."""

from __future__ import annotations

import io
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.cli import main
from sam3lt_ray.config.schema import Config
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.storage.ledger import parse_unit_path, shard_directory
from sam3lt_ray.storage.store import open_store
from tests.run_checks import all_rows
from tests.servers.moto_s3 import MotoS3
from tests.standin import load_standin, plain_image

pytestmark = pytest.mark.usefixtures("local_ray")

ESCAPE = "\x1b]0;owned\x07\x1b[31m"
SHARD_NAMES = (
    "../../escape.tar",
    "..%2f..%2fescape.tar",
    "/etc/absolute.tar",
    "a/../b.tar",
    "C:\\windows\\evil.tar",
    "x" * 300 + ".tar",
    unicodedata.normalize("NFC", "é.tar"),
    unicodedata.normalize("NFD", "é.tar"),
    "a.tar",
    "A.tar",
    "\u0430.tar",  # Cyrillic
    "\uff41.tar",  # full width
    "a.tar ",
    "a\u202egnp.tar",
    "CON.tar",
    "-rf.tar",
    "<script>alert(1)</script>.tar",
)
KEYS = (
    "../../../../escape.png",
    "/etc/absolute.png",
    "<script>alert(1)</script>.png",
    '" onmouseover="alert(1)" x=".png',
    f"{ESCAPE}red.png",
    "two\nlines.png",
    "k" * 300 + ".png",
    "gnp.\u202ecod.png",
)


def _tar(keys: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, key in enumerate(keys):
            data = b"no image" if number == 2 else plain_image((number, 90, 30))
            info = tarfile.TarInfo(key)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _config(output: str, uri: str, endpoint_url: str) -> Config:
    return Config.model_validate(
        {
            "run": {"output": output},
            "input": {"format": "webdataset", "uri": uri},
            "vocabulary": ["<img src=x onerror=alert(1)>", f"{ESCAPE}cat"],
            "storage": {"endpoint_url": endpoint_url},
        }
    )


@pytest.mark.parametrize("place", ["local", "s3"])
def test_names_of_shards_stay_inside_the_run(moto_s3: MotoS3, tmp_path: Path, place: str) -> None:
    bucket = moto_s3.new_bucket()
    for number, name in enumerate(SHARD_NAMES):
        bucket.put(f"deep/er/in/{name}", _tar((f"{number}.png",)))
    before = set(bucket.keys())
    output = str(tmp_path / "deep" / "er" / "run") if place == "local" else bucket.uri("deep/er/run")
    config = _config(output, bucket.uri("deep/er/in/"), moto_s3.endpoint_url)
    summary = label_run(config, load_engine=load_standin)
    assert summary.exit_code == 0, summary.message

    store = open_store(output, config.storage)
    rows = all_rows(store)
    found = {row["shard"] for row in rows}
    # Parts that begin with a dot are hidden, and ".." is one of them.
    assert found == {name for name in SHARD_NAMES if name.endswith(".tar") and "/." not in f"/{name}"}
    assert len(rows) == len(found), "shards were mixed up"
    folders = {unit.shard_dir for item in store.list("labels") if (unit := parse_unit_path(item.path)) is not None}
    assert folders == {shard_directory(name) for name in found}
    assert len({folder.casefold() for folder in folders}) == len(found)
    if place == "local":
        assert [path.name for path in tmp_path.iterdir()] == ["deep"]
        assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["run"]
    else:
        assert all(key.startswith("deep/er/run/") for key in set(bucket.keys()) - before)


def test_keys_are_data_wherever_they_are_shown(
    moto_s3: MotoS3, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shards, run = tmp_path / "shards", tmp_path / "deep" / "run"
    shards.mkdir()
    (shards / f"{ESCAPE}a.tar").write_bytes(_tar(KEYS))
    config = _config(str(run), str(shards), moto_s3.endpoint_url)
    assert label_run(config, load_engine=load_standin).exit_code == 0
    rows = all_rows(open_store(str(run), config.storage))
    assert [row["key"] for row in rows][:3] == list(KEYS[:3])
    assert len(rows) == len(KEYS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "shards"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]

    capfd.readouterr()
    for command in (["status"], ["status", "--json"], ["report"], ["export", "coco"]):
        assert (
            main(
                [command[0], *command[1:2], str(run), *command[2:]] if command[0] == "export" else [*command, str(run)]
            )
            == 0
        )
    settings: list[Any] = ["--set", f"run.output={run}", "--set", "input.format=webdataset"]
    assert main(["plan", *settings, "--set", f"input.uri={shards}", "--set", "vocabulary=demo"]) in (0, 2)
    assert main(["status", str(tmp_path / f"no{ESCAPE}where")]) == 2
    shown = "".join(capfd.readouterr())
    assert "\\u001b[31m" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)

    html = (run / "report" / "index.html").read_text(encoding="utf-8").lower()
    assert "<script" not in html
    assert "<img src=x" not in html
    assert '" onmouseover="' not in html
    assert "&lt;script&gt;alert(1)" in html
