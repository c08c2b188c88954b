"""One line for each part: fine, or what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray import doctor
from sam3lt_ray.cli import main
from sam3lt_ray.config.load import LoadedConfig, load_config
from sam3lt_ray.errors import CheckpointError, InputError

TORCH = {"version": "2.13.0", "gpus": []}


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ask_python", lambda script: TORCH if "torch" in script else {"version": "2.60.0"})
    monkeypatch.setattr(doctor, "_describe_checkpoint", lambda name, _revision: f"{name} is there")
    monkeypatch.setattr(doctor, "_describe_input", lambda _config: "3 shards")
    monkeypatch.setattr(doctor, "_describe_output", lambda _config: "can be written")


def config(tmp_path: Path, *overrides: str) -> LoadedConfig:
    base = [f"run.output={tmp_path / 'run'}", "input.format=folder", f"input.uri={tmp_path}", "vocabulary=[cat]"]
    return load_config([], [*base, *overrides])


@pytest.mark.usefixtures("healthy")
def test_machine_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["Python", "Ray", "torch", "GPU", "checkpoint"]
    assert all(line.startswith("ok ") for line in lines)


@pytest.mark.usefixtures("healthy")
def test_config_adds_what_it_names(tmp_path: Path) -> None:
    findings = list(doctor.examine(config(tmp_path)))
    assert [finding.subject for finding in findings[4:]] == ["checkpoint", "vocabulary", "input", "output"]
    assert findings[5].text == "1 label, 1 prompt"
    assert all(finding.ok for finding in findings)


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(("cores", "says"), [(16, "keep about 8 busy"), (3, "the GPUs will wait for images")])
def test_cores_are_held_against_gpus_and_vocabulary(
    cores: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"version": "2.13.0", "gpus": ["H100 (80 GiB)", "H100 (80 GiB)"]}
    monkeypatch.setattr(doctor, "ask_python", lambda script: answer if "torch" in script else {"version": "2.60.0"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    (finding,) = [one for one in doctor.examine(config(tmp_path)) if one.subject == "CPU"]
    assert finding.ok
    assert f"{cores} cores; 2 GPUs with 1 prompts" in finding.text
    assert says in finding.text


@pytest.mark.usefixtures("healthy")
def test_something_to_do_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str, _revision: str | None) -> str:
        raise CheckpointError(f"{name}: no weights.\nFetch them.")

    monkeypatch.setattr(doctor, "_describe_checkpoint", missing)
    assert main(["doctor", "--json"]) == 1
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["findings"][-1] == {"subject": "checkpoint", "ok": False, "text": "demo: no weights. Fetch them."}


def test_broken_installation_is_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RAY_SCRIPT", "raise ImportError('no such library')")
    monkeypatch.setattr(doctor, "_TORCH_SCRIPT", "import os, json; os._exit(3)")
    monkeypatch.setattr(doctor, "_describe_checkpoint", lambda _name, _revision: "there")
    by_subject = {finding.subject: finding for finding in doctor.examine()}
    assert not by_subject["Ray"].ok
    assert by_subject["Ray"].text == "cannot be imported: ImportError: no such library. Install it again."
    assert not by_subject["torch"].ok
    assert "code 3" in by_subject["torch"].text
    assert "GPU" not in by_subject


def test_missing_gpu_matters_only_where_one_is_asked_for() -> None:
    assert doctor.check_gpus([], wants_cuda=False).ok
    assert not doctor.check_gpus([], wants_cuda=True).ok
    assert doctor.check_gpus(["H200 (139 GiB)"], wants_cuda=True).text == "H200 (139 GiB)"


def test_old_python_is_told() -> None:
    assert not doctor.check_python((3, 10)).ok
    assert doctor.check_python((3, 11)).ok


def test_looking_at_the_output_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for output in ("new/er/run", "there", "there/run"):
        assert doctor._describe_output(config(tmp_path, f"run.output={tmp_path / output}").config).endswith("written")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        doctor._describe_output(config(tmp_path, f"run.output={tmp_path / 'file'}").config)
