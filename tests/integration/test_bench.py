"""The benchmark's command with its processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam3lt_ray.benchmark.processes import run_child
from sam3lt_ray.cli import main


@pytest.mark.slow
def test_quick_bench_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    code = main(["bench", "--quick", "-V", "1", "--images", "1", "--budget-minutes", "0.2", "--json", str(file)])
    captured = capsys.readouterr()
    assert code == 0, captured
    assert "1 prompt, 1 present" in captured.out
    content = json.loads(file.read_text())
    (one,) = content["workloads"]
    assert {name: row["status"] for name, row in one["contenders"].items()} == dict.fromkeys(
        ("documented", "sam3lt", "compiled"), "measured"
    )
    assert one["agreement"]["compared"] == 9  # three pairs of contenders, three masks
    assert one["agreement"]["least_iou"] >= 0.999
    assert content["limit"]["tflops"] > 0
    assert content["machine"]["versions"]["torch"]


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["bench", "--quick", "--checkpoint", str(tmp_path)])
    assert code == 2
    assert "config.json" in capsys.readouterr().err


def test_a_place_for_figures_that_is_none_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", "no/such/folder/bench.json"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


def test_a_contender_that_dies_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    spec = {"task": "contender", "contender": "compiled", "settings": {"no": "such setting"}}
    answer = run_child(spec, tmp_path, timeout_s=120, say=said.append)
    assert answer.content == {}
    assert answer.failure is not None
    assert answer.failure.startswith("its process ended with exit code 1")
    assert "unexpected keyword argument" in answer.failure
    assert "Traceback" in said[0]
