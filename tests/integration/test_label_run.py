"""The whole job on real Ray and real files, with a stand-in for the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import CheckpointError, RunMismatchError
from sam3lt_ray.pipeline.own_files import is_own
from sam3lt_ray.pipeline.planning import plan_run
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.storage.store import RunStore, open_store
from tests.run_checks import all_rows, assert_exact
from tests.standin import load_standin, plain_image, write_tar

pytestmark = pytest.mark.usefixtures("local_ray")
DEMO_CHECKPOINT = Path(__file__).parents[2] / "sam3lt_ray" / "demo" / "checkpoint"


def _shard(path: Path, count: int, offset: int = 0) -> None:
    members = []
    for i in range(count):
        color = ((offset + i * 7) % 200, (i * 13) % 256, (i * 29) % 256)
        members += [(f"{offset + i:06d}.png", plain_image(color, (40 + i % 5, 30))), (f"{offset + i:06d}.json", b"{}")]
    write_tar(path, members)


def _config(tmp_path: Path, **sections: dict[str, Any]) -> Config:
    settings: dict[str, Any] = {
        "run": {"output": str(tmp_path / "run")},
        "input": {"format": "webdataset", "uri": str(tmp_path / "shards"), "images_per_unit": 10},
        "vocabulary": ["red circle", "star"],
    }
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return Config.model_validate(settings)


def _store(config: Config) -> RunStore:
    return open_store(config.run.output, config.storage)


def test_every_image_becomes_one_row(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 33)
    _shard(tmp_path / "shards" / "sub" / "b.tar", 10, offset=100)
    write_tar(tmp_path / "shards" / "empty.tar", [("readme.txt", b"no images")])
    write_tar(
        tmp_path / "shards" / "bad.tar",
        [
            ("x.jpg", b""),
            ("y.jpg", b"garbage"),
            ("z.png", plain_image((3, 4, 5))),
            ("w.png", plain_image((5, 4, 3))),
            ("z.png", plain_image((9, 9, 9))),
        ],
    )
    config = _config(tmp_path)
    summary = label_run(config, load_engine=load_standin)
    assert summary.exit_code == 0, summary.message
    rows = assert_exact(_store(config), {"a.tar": 33, "sub/b.tar": 10, "bad.tar": 5})
    kinds = {(row["shard"], row["index"]): row["error_kind"] for row in rows if row["status"] == "error"}
    assert kinds == {("bad.tar", 0): "empty", ("bad.tar", 1): "not_an_image", ("bad.tar", 4): "duplicate_key"}
    content = summary.to_json()
    assert content["images"] == {"total": 48, "ok": 45, "error": 3}
    assert content["errors"] == {"empty": 1, "not_an_image": 1, "duplicate_key": 1}
    assert content["instances"]["by_label"] == {"red circle": 45, "star": 45}
    assert json.loads((tmp_path / "run" / "run_summary.json").read_text()) == content
    first = rows[0]
    assert (first["width"], first["height"], first["side_files"]) == (40, 30, ["000000.json"])
    assert len(first["instances"]) == 2


def test_a_second_start_has_nothing_to_do_and_a_new_shard_is_all_it_labels(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 25)
    config = _config(tmp_path)
    assert label_run(config, load_engine=load_standin).to_json()["session"]["units"] == 3
    before = {item.path: item.modified_s for item in _store(config).list("labels")}
    again = label_run(config, load_engine=load_standin)
    assert (again.status, again.to_json()["session"]["units"], again.to_json()["images"]["total"]) == ("done", 0, 25)
    _shard(tmp_path / "shards" / "b.tar", 12, offset=500)
    assert plan_run(config).to_json()["shards_new"] == 1
    grown = label_run(config, load_engine=load_standin).to_json()
    assert (grown["session"]["images"]["total"], grown["images"]["total"]) == (12, 37)
    after = {item.path: item.modified_s for item in _store(config).list("labels")}
    assert before.items() <= after.items()


def test_limit_stops_early_and_the_next_start_goes_on(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 95)
    config = _config(tmp_path)
    limited = label_run(config, load_engine=load_standin, limit=15)
    assert limited.status == "limited"
    done = limited.to_json()["images"]["total"]
    assert 15 <= done < 95
    assert plan_run(config).to_json()["shards_partly_done"] == 1
    assert label_run(config, load_engine=load_standin).status == "done"
    assert_exact(_store(config), {"a.tar": 95})


def test_settings_that_change_labels_are_refused_with_both_values(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 5)
    label_run(_config(tmp_path), load_engine=load_standin)
    other = _config(tmp_path, labeling={"score_floor": 0.35})
    with pytest.raises(RunMismatchError, match=r"labeling\.score_floor: the run has 0\.2, now it is 0\.35"):
        label_run(other, load_engine=load_standin)
    plan = plan_run(other)
    assert (plan.rerun, plan.exit_code) == ("refused", 2)
    with pytest.raises(RunMismatchError, match=r"run\.on_exists is fail"):
        label_run(_config(tmp_path), on_exists="fail", load_engine=load_standin)
    assert [item.path for item in _store(other).list("") if not is_own(item.path)] == []
    (tmp_path / "run" / "notes.txt").write_text("mine")
    overwritten = label_run(other, on_exists="overwrite", load_engine=load_standin)
    assert overwritten.to_json()["session"]["images"]["total"] == 5
    assert (tmp_path / "run" / "notes.txt").exists()


def test_overwrite_never_deletes_what_is_not_a_run(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 5)
    precious = tmp_path / "run" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("four years of work")
    with pytest.raises(RunMismatchError, match="not a run directory"):
        label_run(_config(tmp_path), on_exists="overwrite", load_engine=load_standin)
    assert precious.read_text() == "four years of work"


def test_a_changed_shard_is_refused_by_name(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 5)
    label_run(_config(tmp_path), load_engine=load_standin)
    _shard(tmp_path / "shards" / "a.tar", 6)
    with pytest.raises(RunMismatchError, match=r"a\.tar was \d+ bytes"):
        label_run(_config(tmp_path), load_engine=load_standin)


def test_error_budget(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "shards" / "a.tar", [(f"{i}.png", b"junk" if i < 6 else plain_image((i, i, i))) for i in range(10)]
    )
    config = _config(tmp_path, errors={"max_error_fraction": 0.5})
    summary = label_run(config, load_engine=load_standin)
    assert (summary.status, summary.exit_code) == ("over_error_budget", 3)
    assert len(all_rows(_store(config))) == 10


def test_a_shard_that_vanishes_keeps_its_labels(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 5)
    _shard(tmp_path / "shards" / "b.tar", 5, offset=50)
    config = _config(tmp_path)
    label_run(config, load_engine=load_standin)
    (tmp_path / "shards" / "a.tar").unlink()
    summary = label_run(config, load_engine=load_standin)
    assert (summary.status, summary.to_json()["images"]["total"]) == ("done", 10)
    assert plan_run(config).shards_vanished == 1


def test_a_renamed_text_encoder_stops_the_job_by_name(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 3)
    checkpoint = tmp_path / "renamed"
    shutil.copytree(DEMO_CHECKPOINT, checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    renamed = {name.replace("text_encoder.", "text_enc."): value for name, value in weights.items()}
    save_file(renamed, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = _config(tmp_path, model={"checkpoint": str(checkpoint)})
    with pytest.raises(CheckpointError, match=r"93 missing .*text_encoder\.embeddings"):
        label_run(config)
    assert list(_store(config).list("labels")) == []
    assert json.loads((tmp_path / "run" / "run_summary.json").read_text())["status"] == "failed"


def test_the_config_in_run_json_is_the_resolved_one(tmp_path: Path) -> None:
    _shard(tmp_path / "shards" / "a.tar", 3)
    config = _config(tmp_path)
    label_run(config, load_engine=load_standin)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["config"] == config.model_dump(mode="json")
    assert run["conditional_put"] is True
    assert len(run["fingerprint"]) == 64
    assert run["model"]["files"].keys() >= {"model.safetensors", "config.json"}
    vocabulary = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
    assert [(label["id"], label["name"]) for label in vocabulary["labels"]] == [(1, "red circle"), (2, "star")]
