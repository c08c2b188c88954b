"""Runs whose input and vocabulary change: what is asked of which images, and what is read afterwards."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.exports.coco import export_coco
from sam3lt_ray.labels.counting import summarize
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.labels.status import read_run_state
from sam3lt_ray.pipeline.planning import PlanReport, plan_run
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.pipeline.summary import RunSummary
from sam3lt_ray.storage.run_directory import encode_json
from sam3lt_ray.storage.store import RunStore, open_store
from tests.asking import load_asked, read_notes
from tests.servers.s3_server import S3Bucket
from tests.standin import plain_image, write_tar

pytestmark = pytest.mark.usefixtures("local_ray")


def _asked(reds: Iterable[int], *prompts: str) -> Counter[tuple[int, str]]:
    return Counter((red, prompt) for red in reds for prompt in prompts)


@dataclass
class Growing:
    """A run and its input; the red of an image tells which one it is."""

    folder: Path
    output: str
    uri: str
    storage: dict[str, Any]

    def __post_init__(self) -> None:
        self.notes = self.folder / "notes-0"
        self.notes.mkdir()

    def shard(self, name: str, reds: Iterable[int]) -> Path:
        path = self.folder / "shards" / name
        write_tar(path, [(f"{red:03d}.png", plain_image((red, 90, 200), (40 + red % 5, 30))) for red in reds])
        return path

    def config(self, vocabulary: list[Any], **sections: dict[str, Any]) -> Config:
        return Config.model_validate(
            {
                "run": {"output": self.output, **sections.get("run", {})},
                "input": {"format": "webdataset", "uri": self.uri, "images_per_unit": 4, **sections.get("input", {})},
                "vocabulary": vocabulary,
                "labeling": sections.get("labeling", {}),
                "storage": self.storage,
            }
        )

    def label(self, config: Config, *, fails_from_red: int = 256, **options: Any) -> RunSummary:
        engine = partial(load_asked, notes=self.notes, fails_from_red=fails_from_red)
        summary = label_run(config, load_engine=engine, **options)
        assert summary.exit_code == 0, summary.message
        return summary

    def asked(self) -> Counter[tuple[int, str]]:
        """What was asked since the last call; actors of an earlier start may still be writing down theirs."""
        asked = read_notes(self.notes)
        self.notes = self.folder / f"notes-{int(self.notes.name.removeprefix('notes-')) + 1}"
        self.notes.mkdir()
        return asked

    @property
    def store(self) -> RunStore:
        return open_store(self.output, Config.model_validate(self._plain()).storage)

    def _plain(self) -> dict[str, Any]:
        return self.config(["x"]).model_dump()

    def images(self, output: str | None = None) -> dict[str, LabeledImage]:
        store = self.store if output is None else open_store(output, self.config(["x"]).storage)
        images = list(RunReader(store).iter_images())
        assert len({image.image_id for image in images}) == len(images), "an image has two rows"
        return {image.key: image for image in images}


@pytest.fixture
def run(tmp_path: Path) -> Growing:
    return Growing(tmp_path, str(tmp_path / "run"), str(tmp_path / "shards"), {})


def _agree(run: Growing, summary: RunSummary, images: dict[str, LabeledImage]) -> None:
    """Summary, status, counting and reading say the same."""
    num_errors = sum(image.status == "error" for image in images.values())
    assert summary.to_json()["images"] == {"total": len(images), "ok": len(images) - num_errors, "error": num_errors}
    num_instances = sum(len(image.instances) for image in images.values())
    assert summary.to_json()["instances"]["total"] == num_instances
    state = read_run_state(run.store)
    assert (state.images_done, sum(state.errors.values())) == (len(images), num_errors)
    assert state.instances == summary.to_json()["instances"]["by_label"]
    counts = summarize(RunReader(run.store))
    assert (counts.images, counts.instances, sum(counts.errors_by_kind.values())) == (
        len(images),
        num_instances,
        num_errors,
    )


def _said(plan: PlanReport) -> list[tuple[list[str], int]]:
    return sorted((list(layer.labels), layer.shards) for layer in plan.layers)


def test_labels_and_shards_come_and_go(run: Growing) -> None:
    run.shard("a.tar", range(11))
    run.shard("b.tar", range(20, 27))
    run.label(run.config(["circle", "star"]))
    old = [*range(11), *range(20, 27)]
    assert run.asked() == _asked(old, "circle", "star")

    # A new shard and a new label in one start: the old images are asked for the label, the new ones for everything.
    run.shard("c.tar", range(40, 46))
    more = run.config(["heart", "circle", "star"])
    assert _said(plan_run(more)) == [(["heart"], 2), (["heart", "circle", "star"], 1)]
    assert plan_run(more).label_changes == ("new: heart",)
    summary = run.label(more)
    assert run.asked() == _asked(old, "heart") + _asked(range(40, 46), "heart", "circle", "star")
    images = run.images()
    assert len(images) == 24
    assert all(image.presence.keys() == {1, 2, 3} for image in images.values())
    assert [sorted(found.label_id for found in image.instances) for image in images.values()] == [[1, 2, 3]] * 24
    _agree(run, summary, images)
    assert read_run_state(run.store).is_complete

    # A label less, another under a new name: nothing is asked, and nothing else is read.
    fewer = run.config(["heart", {"id": 1, "name": "disc"}])
    plan = plan_run(fewer)
    assert (plan.rerun, plan.label_changes) == (
        "nothing to do",
        ("renamed: circle to disc", "removed: star (what is labeled stays stored)"),
    )
    summary = run.label(fewer)
    assert run.asked() == Counter()
    assert summary.to_json()["instances"]["by_label"] == {"disc": 24, "heart": 24}
    assert {name: image.presence.keys() for name, image in run.images().items()} == {key: {1, 3} for key in images}
    _agree(run, summary, run.images())
    export_coco(RunReader(run.store), run.store, kind="dataset", score_threshold=0.0)
    coco = json.loads(run.store.read("exports/coco/instances.json"))
    assert [(one["id"], one["name"]) for one in coco["categories"]] == [(3, "heart"), (1, "disc")]
    assert len(coco["annotations"]) == 48

    # Other prompts, and the label that was away: only the new prompts are asked.
    final = run.config([{"name": "heart", "prompts": ["red heart"]}, {"id": 1, "name": "disc"}, "star"])
    assert _said(plan_run(final)) == [(["heart"], 3)]
    summary = run.label(final)
    everything = [*old, *range(40, 46)]
    assert run.asked() == _asked(everything, "red heart")
    grown = run.images()
    _agree(run, summary, grown)
    assert {name: image.presence[2] for name, image in grown.items()} == {
        name: image.presence[2] for name, image in images.items()
    }
    assert any(grown[name].presence[3] != images[name].presence[3] for name in images)
    assert run.label(final).to_json()["session"]["units"] == 0

    # All that growing ends with what one start would have made.
    at_once = run.config(
        [
            {"name": "heart", "prompts": ["red heart"], "id": 3},
            {"name": "disc", "prompts": ["circle"], "id": 1},
            {"name": "star", "id": 2},
        ],
        run={"output": str(run.folder / "at-once")},
    )
    run.label(at_once)
    assert {name: _content(image) for name, image in run.images(at_once.run.output).items()} == {
        name: _content(image) for name, image in grown.items()
    }


def _content(image: LabeledImage) -> object:
    return image.image_id, image.presence, sorted(image.instances, key=lambda found: found.label_id)


def test_a_label_that_joins_an_unfinished_run_is_asked_once_of_every_image(run: Growing) -> None:
    run.shard("a.tar", range(200))  # far more than Ray has under way when the limit is reached
    assert run.label(run.config(["circle", "star"]), limit=8).status == "limited"
    before = run.asked()
    grown = run.config(["circle", "star", "heart"])
    summary = run.label(grown)
    after = run.asked()
    done = {int(image.key[:3]) for image in run.images().values()}
    assert done == set(range(200))
    rows_before = {red for red, prompt in before if (red, "circle") not in after}
    assert 8 <= len(rows_before) < 200
    assert after == _asked(rows_before, "heart") + _asked(done - rows_before, "circle", "star", "heart")
    _agree(run, summary, run.images())
    assert all(image.presence.keys() == {1, 2, 3} for image in run.images().values())


def test_rows_with_errors_are_made_again_and_nothing_else(run: Growing) -> None:
    run.shard("a.tar", [1, 2, 200, 3, 4, 201, 202, 5, 6, 7])
    run.shard("b.tar", range(10, 14))
    config = run.config(["circle"])
    summary = run.label(config, fails_from_red=200)
    assert summary.to_json()["errors"] == {"failed": 3}
    assert plan_run(config, retry_errors=True).rows_to_retry == 3
    assert plan_run(config).rerun == "nothing to do"
    run.asked()
    files = {item.path: run.store.read(item.path) for item in run.store.list("labels")}

    # One of them fails again; it is the only one that is tried a second time.
    summary = run.label(config, fails_from_red=202, retry_errors=True)
    assert run.asked() == _asked([200, 201], "circle")
    images = run.images()
    assert [key for key, image in images.items() if image.status == "error"] == ["202.png"]
    _agree(run, summary, images)
    summary = run.label(config, retry_errors=True)
    assert run.asked() == _asked([202], "circle")
    assert summary.to_json()["session"]["images"] == {"total": 1, "ok": 1, "error": 0}
    images = run.images()
    assert all(image.status == "ok" for image in images.values())
    _agree(run, summary, images)
    assert "no error rows" in run.label(config, retry_errors=True).message
    assert {path: run.store.read(path) for path in files} == files, "a committed file was changed"

    # A label that comes later is asked of all of them alike.
    summary = run.label(run.config(["circle", "star"]))
    assert run.asked() == _asked([1, 2, 200, 3, 4, 201, 202, 5, 6, 7, *range(10, 14)], "star")
    _agree(run, summary, run.images())


def test_a_changed_shard_is_labeled_anew_when_asked_and_never_mixed(run: Growing) -> None:
    run.shard("a.tar", range(9))
    run.shard("b.tar", range(20, 25))
    config = run.config(["circle"])
    run.label(config)
    run.label(run.config(["circle", "star"]))
    run.asked()
    run.shard("a.tar", [50, 250, *range(51, 55)])
    config = run.config(["circle", "star"])
    with pytest.raises(RunMismatchError, match=r"(?s)a\.tar was .*--changed relabel"):
        run.label(config)
    config = run.config(["circle", "star"], run={"changed": "relabel"})
    plan = plan_run(config)
    assert (plan.shards_changed, _said(plan)) == (1, [(["circle", "star"], 1)])
    with pytest.raises(RunMismatchError, match=r"a\.tar"):
        run.label(config, retry_errors=True)
    summary = run.label(config, fails_from_red=250)
    assert run.asked() == _asked(range(50, 55), "circle", "star")
    images = run.images()
    assert images.keys() == {f"{red:03d}.png" for red in [50, 250, *range(51, 55), *range(20, 25)]}
    _agree(run, summary, images)
    stored = [pq.read_table(io.BytesIO(run.store.read(item.path))) for item in run.store.list("labels")]
    keys = {key for table in stored for key in table.column("key").to_pylist()}
    assert keys == images.keys(), "rows of the old content are still there"
    # From then on it is a shard like any other.
    again = run.config(["circle", "star"])
    assert plan_run(again).rerun == "nothing to do"
    run.label(again, retry_errors=True)
    assert run.asked() == _asked([250], "circle", "star")
    assert all(image.status == "ok" for image in run.images().values())


def test_a_fork_reuses_nothing_and_says_where_it_comes_from(run: Growing) -> None:
    run.shard("a.tar", range(6))
    run.label(run.config(["star", "circle"]))
    run.asked()
    other = run.config(["heart", "circle"], labeling={"score_floor": 0.35})
    with pytest.raises(RunMismatchError, match=r"(?s)score_floor: the run has 0\.2, now it is 0\.35.*--fork NEW_RUN"):
        run.label(other)
    fork = str(run.folder / "fork")
    assert plan_run(other, fork=fork).rerun == "new"
    run.label(other, fork=fork)
    assert run.asked() == _asked(range(6), "circle", "heart")
    written = json.loads((run.folder / "fork" / "run.json").read_text())
    assert written["forked_from"] == {
        "run": run.output,
        "fingerprint": json.loads((run.folder / "run" / "run.json").read_text())["fingerprint"],
        "differences": ["labeling.score_floor: the run has 0.2, now it is 0.35"],
    }
    assert {label.name: label.id for label in RunReader(open_store(fork, other.storage)).vocabulary().labels} == {
        "heart": 3,
        "circle": 2,
    }
    assert run.label(other, fork=fork).message == "Nothing was missing."
    with pytest.raises(RunMismatchError, match="names the run itself"):
        run.label(other, fork=run.output)


def test_a_run_of_the_first_version_is_continued(run: Growing) -> None:
    run.shard("a.tar", range(10))
    run.label(run.config(["circle", "star"]))
    _make_it_a_run_of_the_first_version(run.store)
    last = [item.path for item in run.store.list("labels")][-1]
    run.store.delete(last)
    run.asked()
    assert len(run.images()) == 8
    assert read_run_state(run.store).shards_done == 0
    summary = run.label(run.config(["circle", "star"]))
    assert run.asked() == _asked([8, 9], "circle", "star")
    _agree(run, summary, run.images())
    _make_it_a_run_of_the_first_version(run.store)
    summary = run.label(run.config(["circle", "star", "heart"]))
    assert run.asked() == _asked(range(10), "heart")
    _agree(run, summary, run.images())
    assert all(image.presence.keys() == {1, 2, 3} for image in run.images().values())


def _make_it_a_run_of_the_first_version(store: RunStore) -> None:
    """What 0.1.0 wrote, in its own words: one layer, named by each label, and a snapshot without editions."""
    run = json.loads(store.read("run.json"))
    store.replace("run.json", encode_json({**run, "format_version": 1}))
    vocabulary = json.loads(store.read("vocabulary.json"))
    labels = [
        {key: value for key, value in label.items() if key != "former_names"} | {"layer": "000"}
        for label in vocabulary["labels"]
    ]
    first = {"source": vocabulary["source"], "labels": labels, "layers": ["000"]}
    store.replace("vocabulary.json", encode_json(first))
    sink = io.BytesIO()
    columns = ["name", "uri", "size_bytes", "version", "members"]
    pq.write_table(pq.read_table(io.BytesIO(store.read("input/shards.parquet")), columns=columns), sink)
    store.replace("input/shards.parquet", sink.getvalue())


def test_all_of_it_on_s3(seaweed_bucket: S3Bucket, tmp_path: Path) -> None:
    storage = {"endpoint_url": seaweed_bucket.server.endpoint_url}
    run = Growing(tmp_path, seaweed_bucket.uri("run"), seaweed_bucket.uri("shards/"), storage)

    def upload(name: str, reds: Iterable[int]) -> None:
        seaweed_bucket.put(f"shards/{name}", run.shard(name, reds).read_bytes())

    upload("a.tar", [*range(5), 200])
    run.label(run.config(["circle"]), fails_from_red=200)
    run.asked()
    upload("b.tar", range(20, 23))
    summary = run.label(run.config(["circle", "star"]), fails_from_red=200)
    assert run.asked() == _asked(range(5), "star") + _asked(range(20, 23), "circle", "star")
    _agree(run, summary, run.images())
    summary = run.label(run.config(["circle", "star"]), retry_errors=True)
    assert run.asked() == _asked([200], "circle", "star")
    _agree(run, summary, run.images())
    upload("b.tar", range(30, 34))
    summary = run.label(run.config(["circle", "star"], run={"changed": "relabel"}))
    assert run.asked() == _asked(range(30, 34), "circle", "star")
    assert run.images().keys() == {f"{red:03d}.png" for red in [*range(5), 200, *range(30, 34)]}
    _agree(run, summary, run.images())


def test_images_of_a_folder_come_and_go(run: Growing) -> None:
    folder = run.folder / "shards"
    folder.mkdir()
    for red in range(8):
        (folder / f"{red}.png").write_bytes(plain_image((red, 90, 200), (40, 30)))
    of_four = {"input": {"format": "folder", "images_per_group": 4}}
    config = run.config(["circle"], **of_four)
    run.label(config)
    assert run.asked() == _asked(range(8), "circle")

    # One is gone, and another one is new: only that one is asked.
    (folder / "1.png").unlink()
    (folder / "8.png").write_bytes(plain_image((8, 90, 200), (40, 30)))
    plan = plan_run(config)
    assert (plan.images_vanished, plan.shards_vanished, plan.shards_changed) == (1, 0, 0)
    run.label(config)
    assert run.asked() == _asked([8], "circle")
    assert run.images().keys() == {f"{red}.png" for red in range(9)}

    # Nothing is left of the second group.
    for red in range(4, 8):
        (folder / f"{red}.png").unlink()
    plan = plan_run(config)
    assert (plan.images_vanished, plan.shards_vanished) == (5, 1)
    run.label(config)
    assert run.asked() == Counter()
    assert len(run.images()) == 9

    # What is gone cannot be asked a new label, and keeps its old answers.
    more = run.config(["circle", "star"], **of_four)
    run.label(more)
    assert run.asked() == _asked([0, 2, 3, 8], "star")
    assert run.images()["1.png"].error_kind == "unreadable"
    assert run.images()["1.png"].presence.keys() == {1}

    # A changed image is refused by its name; its group is labeled anew without what is gone.
    (folder / "2.png").write_bytes(plain_image((102, 90, 200), (40, 30)))
    with pytest.raises(RunMismatchError, match=r"changed: 2\.png; gone: 1\.png"):
        run.label(more)
    run.label(run.config(["circle", "star"], **of_four, run={"changed": "relabel"}))
    assert run.asked() == _asked([0, 102, 3], "circle", "star")
    assert run.images().keys() == {f"{red}.png" for red in range(9) if red != 1}
    summary = run.label(more)
    assert run.asked() == Counter()
    _agree(run, summary, run.images())
