"""What is made of a run that is not complete, or may only be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sam3lt_ray.cli import main
from sam3lt_ray.errors import InputError
from sam3lt_ray.evaluation import figures
from sam3lt_ray.exports.coco import export_coco
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.snapshot import write_snapshot
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_image, make_instance, make_run

CAT = Label(3, "cat", ("cat",))
REMARK = "The run is not complete: 1 of 2 shards are not labeled to their end"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """shard-0 is done, shard-1 not begun."""
    mask = np.zeros((48, 80), dtype=bool)
    mask[5:30, 10:60] = True
    found = make_instance(mask, label_id=3, score=0.9)
    config = {"labeling": {"score_threshold": 0.5}, "input": {"format": "webdataset", "uri": "/in"}}
    images = [make_image("0", presence={3: 0.9}, instances=[found])]
    store = make_run(tmp_path / "run", images, [CAT], config=config)
    write_snapshot(store, [Shard(f"shard-{number}.tar", f"/in/shard-{number}.tar") for number in range(2)])
    return store


@pytest.fixture
def truth(store: RunStore, tmp_path: Path) -> str:
    """The run's own answers."""
    export_coco(RunReader(store), store, kind="dataset", path="truth.json")
    return str(tmp_path / "run" / "truth.json")


def test_an_export_of_part_of_a_run_says_so(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "coco", store.uri]) == 0
    assert REMARK in capsys.readouterr().err
    assert main(["export", "coco", store.uri, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["shards"], answer["shards_open"]) == (2, 1)

    write_snapshot(store, [Shard("shard-0.tar", "/in/shard-0.tar")])
    assert main(["export", "coco", store.uri]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "names"),
    [("dataset", ["mine.json"]), ("results", ["mine.images.json", "mine.json"])],
)
def test_an_export_goes_where_it_is_wanted(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, names: list[str]
) -> None:
    before = [item.path for item in store.list("")]
    for folder, output in ((tmp_path / "a", str(tmp_path / "a" / "mine.json")), (tmp_path / "b", "mine.json")):
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert main(["export", "coco", store.uri, "--kind", kind, "-o", output]) == 0
        assert sorted(file.name for file in folder.iterdir()) == names
    assert [item.path for item in store.list("")] == before
    assert main(["export", "coco", store.uri, "-o", f"{tmp_path}/"]) == 2


def test_a_report_goes_where_it_is_wanted(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(type(store), "replace", refused_inside(tmp_path / "run", type(store).replace))
    page = tmp_path / "elsewhere" / "page.html"
    assert main(["report", store.uri, "-o", str(page)]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(page)
    assert REMARK in told.err
    assert "<html" in page.read_text()
    assert main(["report", store.uri, "-o", f"{tmp_path}/"]) == 2
    assert main(["report", store.uri]) == 2, "the run may only be read"


def refused_inside(folder: Path, replace: Callable[[RunStore, str, bytes], None]) -> Callable[..., None]:
    def refusing(store: RunStore, path: str, data: bytes) -> None:
        if store.uri == str(folder):
            raise InputError("This user may not write here.")
        replace(store, path, data)

    return refusing


def test_a_measurement_of_part_of_a_run_says_so(
    store: RunStore, truth: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", store.uri, "-g", truth, "--json"]) == 0
    told = capsys.readouterr()
    assert REMARK in told.err
    assert json.loads(told.out)["shards_open"] == 1
    assert figures.load_evaluation(store) is not None


def test_a_run_that_may_only_be_read_can_be_measured(
    store: RunStore, truth: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("This user may not write here.")

    monkeypatch.setattr(figures, "write_json", refuse)
    assert main(["evaluate", store.uri, "-g", truth]) == 0
    told = capsys.readouterr()
    assert "mask AP" in told.out
    assert "could not be kept for `sam3lt report`. This user may not write here." in told.err
