"""Plans with an estimate: from files alone to figures and where they are from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.cli import main
from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import UsageError
from sam3lt_ray.pipeline import calibration, planning
from sam3lt_ray.pipeline.estimate import EstimateOptions
from sam3lt_ray.pipeline.planning import PlanReport, plan_run
from tests.standin import load_standin, plain_image, write_tar

STATED = EstimateOptions(price_per_gpu_hour=3.0, images_per_s=2.0, gpus=4)


def _config(folder: Path, kind: str = "webdataset") -> Config:
    return Config.model_validate(
        {
            "run": {"output": str(folder / "run")},
            "input": {"format": kind, "uri": str(folder / "in"), "images_per_unit": 10},
            "vocabulary": ["red circle", "star"],
            "compute": {"device": "cpu", "actors": 1},
        }
    )


def _tars(folder: Path, num_shards: int, images: int) -> None:
    for number in range(num_shards):
        members = [(f"{n:04d}.png", plain_image((n % 200, 5, 7))) for n in range(images)]
        write_tar(folder / "in" / f"{number:02d}.tar", members)


def _plan(config: Config, options: EstimateOptions | None, **others: Any) -> PlanReport:
    return plan_run(config, estimate=options, load_engine=load_standin, **others)


def test_a_stated_rate_gives_time_and_money(tmp_path: Path) -> None:
    _tars(tmp_path, 2, 60)
    estimate = _plan(_config(tmp_path), STATED).estimate
    assert estimate is not None
    assert estimate.images_from == "counted by reading"
    assert (estimate.whole.images, estimate.whole.units, estimate.devices) == (120, 12, 4)
    assert estimate.whole.wall_s == pytest.approx(120 / 2.0 / 4)
    assert estimate.whole.price == pytest.approx(60 / 3600 * 3.0)
    assert estimate.remaining == estimate.whole
    assert estimate.output_from is None
    assert not (tmp_path / "run").exists()


def test_many_tars_are_sampled_and_it_says_so(tmp_path: Path) -> None:
    _tars(tmp_path, 10, 300)
    estimate = _plan(_config(tmp_path), STATED).estimate
    assert estimate is not None
    assert "sampled 8 of 10 shards (2,048 images" in estimate.images_from
    assert estimate.whole.images == pytest.approx(3_000, rel=0.05)  # small tars: their ends count


def test_a_calibration_gives_speed_and_size_of_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_ENOUGH_S", 0.0)
    (tmp_path / "in").mkdir()
    for number in range(7):
        (tmp_path / "in" / f"{number}.png").write_bytes(plain_image((number, 5, 7)))
    report = _plan(_config(tmp_path, "folder"), EstimateOptions(price_per_gpu_hour=3.0, calibrate=4))
    estimate = report.estimate
    assert estimate is not None
    assert (estimate.images_from, estimate.device, estimate.devices) == ("counted", "CPU actor", 1)
    assert estimate.rate_from is not None
    said = r"measured on 4 images in 3 rounds \(\S+ to \S+ images/s\), by 1 process at once, as a run has them here"
    assert re.fullmatch(said, estimate.rate_from)
    assert estimate.whole.output_bytes
    assert estimate.whole.price
    text = report.to_text()
    assert "7 images in 1 unit\n" in text
    assert report.to_json()["estimate"]["remaining"]["images"] == 7
    assert not (tmp_path / "run").exists()


def test_without_options_a_plan_is_as_before(tmp_path: Path) -> None:
    _tars(tmp_path, 1, 3)
    report = _plan(_config(tmp_path), None)
    assert "estimate" not in report.to_json()
    assert "estimate" not in report.to_text()


def test_a_price_alone_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "_ENOUGH_S", 0.0)
    monkeypatch.setattr(planning, "segmenter_factory", load_standin)
    _tars(tmp_path, 1, 70)
    config = tmp_path / "config.yaml"
    config.write_text(_config(tmp_path).model_dump_json(), encoding="utf-8")
    assert main(["plan", "-c", str(config), "--price-per-gpu-hour", "2.5", "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)["estimate"]
    assert estimate["rate_from"].startswith("measured on 64 images in ")
    assert estimate["rate_from"].endswith(", as no rate was given (--calibrate N, --images-per-second R)")
    assert estimate["whole"]["price"] > 0


def test_two_rates_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of them"):
        _plan(_config(tmp_path), EstimateOptions(calibrate=3, images_per_s=1.0))


def test_retries_are_not_estimated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--retry-errors"):
        _plan(_config(tmp_path), STATED, retry_errors=True)
