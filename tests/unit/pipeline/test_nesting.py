"""Where a run may lie, seen from its input."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import InputError
from sam3lt_ray.pipeline.nesting import refuse_file, refuse_nesting


def _config(output: str, uri: str, input_format: str) -> Config:
    return Config.model_validate(
        {
            "run": {"output": output},
            "input": {"format": input_format, "uri": uri},
            "model": {"checkpoint": "demo"},
            "vocabulary": ["cat"],
        }
    )


@pytest.mark.parametrize("root", ["/data", "s3://bucket/data", "s3://bucket"])
@pytest.mark.parametrize(
    ("output", "uri", "input_format", "sentence"),
    [
        ("in/run", "in", "parquet", "inside the input"),
        ("in/deep/er/run", "in/", "folder", "inside the input"),
        ("in/run", "in", "webdataset", None),
        ("in/run", "in/rows.csv", "manifest", None),
        ("in/.runs/1", "in", "parquet", None),
        ("in-run", "in", "parquet", None),
        ("runs/1", "in", "folder", None),
        ("all", "all/in", "webdataset", "inside the run directory"),
        ("all/", "all/rows.csv", "manifest", "inside the run directory"),
        ("in", "in/", "parquet", "inside the run directory"),
        ("all", "all-in", "parquet", None),
    ],
)
def test_what_is_refused(root: str, output: str, uri: str, input_format: str, sentence: str | None) -> None:
    config = _config(f"{root}/{output}", f"{root}/{uri}", input_format)
    if sentence is None:
        refuse_nesting(config)
    else:
        with pytest.raises(InputError, match=sentence):
            refuse_nesting(config)


def test_links_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="inside the input"):
        refuse_nesting(_config("link/run", "in", "folder"))


def test_other_stores_are_other_places() -> None:
    refuse_nesting(_config("/bucket/in/run", "s3://bucket/in", "parquet"))


def test_a_file_is_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"run\.output \(.*file\) is a file"):
        refuse_file(_config(str(tmp_path / "file"), "/in", "webdataset"))
    for output in (str(tmp_path), str(tmp_path / "new"), "s3://bucket/run"):
        refuse_file(_config(output, "/in", "webdataset"))
