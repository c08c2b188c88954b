"""The command line as a person meets it: help at once, mistakes as lines, exit codes."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sam3lt_ray import __version__
from sam3lt_ray.cli import main
from sam3lt_ray.config.load import load_config
from sam3lt_ray.config.template import config_json_schema
from sam3lt_ray.errors import InputError, RetryableRunError, RunError

MINIMAL = "run: {output: runs/x}\ninput: {format: folder, uri: images/}\nvocabulary: [cat]\n"
HEAVY = ("ray", "torch", "transformers", "s3fs", "pyarrow", "pandas")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a function where a command would import it, so that neither Ray nor torch is loaded."""

    def replace(module: str, **members: Any) -> None:
        double = types.ModuleType(module)
        for name, member in members.items():
            setattr(double, name, member)
        monkeypatch.setitem(sys.modules, module, double)

    return replace


class Answer:
    exit_code = 0
    message = "Every image has its row."
    run_uri = "runs/x"
    content: dict[str, Any] = {  # noqa: RUF012
        "images": {"ok": 5, "error": 1},
        "errors": {"empty": 1},
        "session": {
            "units": 1,
            "images": {"ok": 5, "error": 1},
            "images_per_s": 2.0,
            "actors": 2,
            "device": "cpu",
            "wall_s": 3.0,
        },
    }

    def to_json(self) -> dict[str, Any]:
        return {"message": self.message, **self.content}

    def to_text(self) -> str:
        return "as text\n"


@pytest.mark.parametrize("arguments", [["--help"], ["label", "--help"], ["config", "show", "-c", "CONFIG"], ["status"]])
def test_commands_that_need_no_run_load_nothing_heavy(arguments: list[str], config_file: Path) -> None:
    arguments = [str(config_file) if word == "CONFIG" else word for word in arguments]
    script = (
        "import sys; from sam3lt_ray.cli import main; main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("demo", "plan", "label", "status", "export", "evaluate", "report", "config", "doctor"):
        assert f" {command} " in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sam3lt {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["lable"], ["label", "--no-such-option"], ["label", "--on-exists", "maybe"], ["label", "--limit", "0"]],
)
def test_usage_mistakes_are_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_config_mistakes_are_plain_lines_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("run: {outputs: x}\ninput: {format: foldr, uri: y}\nvocabulary: [cat]\n", encoding="utf-8")
    assert main(["label", "-c", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.partition(" ")[0] for line in captured.err.splitlines()] == [f"{path}:1:", f"{path}:2:"]


@pytest.mark.parametrize("command", ["plan", "label", "status", "evaluate", "report"])
def test_without_a_config_the_command_says_what_to_give(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, *(["-g", "truth.json"] if command == "evaluate" else [])]) == 2
    assert "-c FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("s3://b/x: there is no such bucket."), 2),
        (RunError("It failed."), 1),
        (RetryableRunError("Somebody else works on it."), 75),
    ],
)
def test_every_family_of_errors_has_its_exit_code_and_sentence(
    error: Exception, code: int, config_file: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def label_run(*_args: object, **_kwargs: object) -> None:
        raise error

    stand_in("sam3lt_ray.pipeline.run", label_run=label_run)
    assert main(["label", "-c", str(config_file)]) == code
    assert capsys.readouterr().err == f"{error}\n"


def test_unexpected_errors_are_short_unless_debugging(
    config_file: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def label_run(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError("division by zero")

    stand_in("sam3lt_ray.pipeline.run", label_run=label_run)
    assert main(["label", "-c", str(config_file)]) == 1
    short = capsys.readouterr().err
    assert "Unexpected ZeroDivisionError: division by zero" in short
    assert "Traceback" not in short
    assert main(["label", "-c", str(config_file), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_label_passes_its_options_on_and_returns_the_runs_exit_code(
    config_file: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []

    def label_run(config: Any, **options: Any) -> Answer:
        calls.append((config, options))
        answer = Answer()
        answer.exit_code = 75
        return answer

    stand_in("sam3lt_ray.pipeline.run", label_run=label_run)
    words = ["label", "-c", str(config_file), "--set", "compute.actors=3", "--on-exists", "fail", "--limit", "10"]
    assert main(words) == 75
    config, options = calls[0]
    assert config.compute.actors == 3
    assert (options["on_exists"], options["limit"], options["verbose"]) == ("fail", 10, False)
    assert options["base_dir"] == config_file.parent
    assert "5 ok, 1 error, 2.0 images/s on 2 cpu actors" in capsys.readouterr().out
    assert main([*words, "--json"]) == 75
    assert json.loads(capsys.readouterr().out)["message"] == Answer.message


def test_the_end_of_a_start_says_what_became_of_the_shards(
    config_file: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    shards = {"new": 2, "changed": 0, "vanished": 1, "open_before": 3, "finished": 1}

    def label_run(_config: Any, **_options: object) -> Answer:
        answer = Answer()
        answer.content = {"shards": 1_005, "shards_open": 2, "session": {"shards": shards}}
        return answer

    stand_in("sam3lt_ray.pipeline.run", label_run=label_run)
    assert main(["label", "-c", str(config_file)]) == 0
    assert "shards       2 new, 1 vanished, 1 finished; 2 of 1,005 open" in capsys.readouterr().out.splitlines()


def test_the_end_of_a_start_says_what_nobody_has_looked_at(
    config_file: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    shards = {"new": 0, "changed": 0, "vanished": 0, "open_before": 3, "finished": None}

    def label_run(_config: Any, **_options: object) -> Answer:
        answer = Answer()
        answer.content = {"shards": 1_005, "shards_open": None, "images": None, "session": {"shards": shards}}
        return answer

    stand_in("sam3lt_ray.pipeline.run", label_run=label_run)
    assert main(["label", "-c", str(config_file)]) == 0
    assert "shards       unknown of 1,005 open" in capsys.readouterr().out.splitlines()


def test_job_is_the_label_command(
    config_file: Path, stand_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[str] = []

    def label_run(config: Any, **_options: object) -> Answer:
        outputs.append(config.run.output)
        answer = Answer()
        answer.exit_code = 3
        return answer

    stand_in("sam3lt_ray.pipeline.run", label_run=label_run)
    job = Path(__file__).parents[3] / "jobs" / "label.py"
    monkeypatch.setattr(sys, "argv", [str(job), "-c", str(config_file), "--set", "run.output=runs/job"])
    with pytest.raises(SystemExit) as exit_request:
        runpy.run_path(str(job), run_name="__main__")
    assert exit_request.value.code == 3
    assert outputs == ["runs/job"]


JOBS = ("label", "export", "evaluate", "report")


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_the_options_and_exit_codes_of_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Path(__file__).parents[3] / "jobs" / f"{name}.py"

    def answer(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [str(job), *arguments])
        with pytest.raises(SystemExit) as exit_request:
            runpy.run_path(str(job), run_name="__main__")
        return exit_request.value.code, capsys.readouterr().out

    assert main([name, "--help"]) == 0
    expected = capsys.readouterr().out
    assert answer("--help") == (0, expected)
    assert answer("--no-such-option") == (2, "")


def test_plan_prints_text_or_json(
    config_file: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    from sam3lt_ray.pipeline.estimate import EstimateOptions

    asked: list[tuple[str, dict[str, object]]] = []

    def plan_run(config: Any, _base_dir: object, **options: object) -> Answer:
        asked.append((config.run.changed, options))
        return Answer()

    stand_in("sam3lt_ray.pipeline.planning", plan_run=plan_run)
    assert main(["plan", "-c", str(config_file)]) == 0
    assert capsys.readouterr().out == "as text\n"
    assert main(["plan", "-c", str(config_file), "--changed", "relabel", "--retry-errors", "--fork", "runs/y"]) == 0
    assert asked == [
        ("refuse", {"retry_errors": False, "fork": None, "estimate": None}),
        ("relabel", {"retry_errors": True, "fork": "runs/y", "estimate": None}),
    ]
    assert capsys.readouterr().out == "as text\n"
    options = ["--price-per-gpu-hour", "2.5", "--images-per-second", "12", "--gpus", "8"]
    assert main(["plan", "-c", str(config_file), *options]) == 0
    assert asked[-1][1]["estimate"] == EstimateOptions(2.5, None, 12.0, 8)
    assert capsys.readouterr().out == "as text\n"
    assert main(["plan", "-c", str(config_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == {"ok": 5, "error": 1}


def test_status_finds_the_run_by_name_or_by_config(
    config_file: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[tuple[str, str | None]] = []
    stand_in("sam3lt_ray.storage.store", open_store=lambda uri, storage: opened.append((uri, storage.region)))
    stand_in("sam3lt_ray.labels.status", read_run_state=lambda _store: Answer())
    assert main(["status", "s3://b/run", "--set", "storage.region=r"]) == 0
    assert main(["status", "-c", str(config_file)]) == 0
    assert opened == [("s3://b/run", "r"), ("runs/x", None)]
    assert capsys.readouterr().out == "as text\n" * 2


def test_config_init_writes_a_valid_config_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "first.yaml"
    assert main(["config", "init", str(path), "--format", "parquet"]) == 0
    assert load_config([path]).config.input.format == "parquet"
    before = path.read_text(encoding="utf-8")
    assert main(["config", "init", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == before
    assert main(["config", "init", str(tmp_path / "absent" / "x.yaml")]) == 2
    assert main(["config", "init", "-"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["input"]["format"] == "folder"


def test_config_show_is_complete(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "-c", str(config_file), "--set", "labeling.score_floor=0.4"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["labeling"]["score_floor"] == 0.4
    assert shown["compute"]["actors"] == "auto"
    assert main(["config", "show", "-c", str(config_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["output"] == "runs/x"


@pytest.mark.parametrize("command", [["config", "show"], ["plan"], ["label"]])
def test_a_mistake_in_the_vocabulary_of_a_config_is_told_with_its_line(
    command: list[str], config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config_file.write_text(MINIMAL.replace("[cat]", "\n  - cat\n  - Cat"), encoding="utf-8")
    assert main([*command, "-c", str(config_file)]) == 2
    assert capsys.readouterr().err == f'{config_file}:5: entry 2 ("Cat"): the name stands already in entry 1.\n'


def test_config_show_reads_the_vocabulary_that_a_config_names(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config_file.parent / "v.yaml").write_text("- {name: cat, promts: [x]}\n", encoding="utf-8")
    assert main(["config", "show", "-c", str(config_file), "--set", f"vocabulary={config_file.parent / 'v.yaml'}"]) == 2
    assert 'v.yaml:1: entry 1 ("cat"): "promts" is not a known key' in capsys.readouterr().err


def test_config_schema_is_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config_json_schema()
