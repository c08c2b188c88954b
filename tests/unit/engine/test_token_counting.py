"""The process that counts tokens, and what becomes of its errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sam3lt_ray.engine import token_counting
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.token_counting import token_counter
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.errors import CheckpointError

PROMPTS = ["red circle", 'a star\nwith "quotes"', "Ünïcödé 画像", "", " ".join(["square"] * 40)]

CHATTY = """
print("Welcome!")

class AutoTokenizer:
    pad_token_id = 0

    @classmethod
    def from_pretrained(cls, *_, **__):
        return cls()

    def __call__(self, text, **_):
        print("counting")
        return {"input_ids": text.split()}
"""


@pytest.fixture
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a driver, which has not loaded it."""
    monkeypatch.delitem(sys.modules, "transformers", raising=False)


@pytest.mark.usefixtures("without_transformers")
def test_the_process_counts_what_this_one_does() -> None:
    checkpoint = resolve_checkpoint("demo")
    with token_counter(checkpoint) as count:
        counted = [count(prompt) for prompt in PROMPTS]
    assert "transformers" not in sys.modules
    assert counted == [PromptTokenizer(checkpoint).count_tokens(prompt) for prompt in PROMPTS]
    assert counted[0] == 4


def test_a_driver_that_has_prepared_a_run_has_loaded_neither_torch_nor_transformers(tmp_path: Path) -> None:
    shutil.copytree(Path(token_counting.__file__).parents[1] / "demo" / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "images").mkdir()
    code = """if True:
        import sys
        from sam3lt_ray.config.schema import Config
        from sam3lt_ray.pipeline.prepare import prepare_run
        folder = sys.argv[1]
        prepare_run(Config.model_validate({
            "run": {"output": folder + "/run"},
            "model": {"checkpoint": folder + "/checkpoint"},
            "input": {"format": "folder", "uri": folder + "/images"},
            "vocabulary": ["red circle"],
        }))
        print([name for name in ("torch", "transformers") if name in sys.modules])
    """
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True, timeout=120
    )
    assert said.stdout == "[]\n"


@pytest.mark.usefixtures("without_transformers")
def test_a_checkpoint_without_tokenizer_is_refused_as_in_this_process(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(resolve_checkpoint("demo").folder, tmp_path / "bare"))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    checkpoint = resolve_checkpoint(str(folder))
    with (
        token_counter(checkpoint) as count,
        pytest.raises(CheckpointError, match="tokenizer cannot be loaded") as caught,
    ):
        count("cat")
    with pytest.raises(CheckpointError) as here:
        PromptTokenizer(checkpoint)
    assert caught.value.message == here.value.message


@pytest.mark.usefixtures("without_transformers")
def test_a_process_that_ends_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = replace(resolve_checkpoint("demo"), name="mine")
    with (
        token_counter(checkpoint) as count,
        pytest.raises(CheckpointError, match=r"'mine': .* ended with 1 \(ImportError: a broken installation\)"),
    ):
        count("cat")


@pytest.mark.usefixtures("without_transformers")
def test_it_ends_with_who_asked_even_when_nothing_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = token_counting._start
    monkeypatch.setattr(token_counting, "_start", lambda said: started.append(start(said)) or started[0])  # type: ignore[func-returns-value]
    with token_counter(resolve_checkpoint("demo")):
        assert started[0].poll() is None
    assert started[0].returncode is not None


def test_where_transformers_is_loaded_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers  # noqa: F401

    monkeypatch.setattr(token_counting, "_start", None)
    with token_counter(resolve_checkpoint("demo")) as count:
        assert count("red circle") == 4


@pytest.mark.usefixtures("without_transformers")
def test_what_libraries_print_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "transformers.py").write_text(CHATTY)
    monkeypatch.syspath_prepend(tmp_path)
    with token_counter(resolve_checkpoint("demo")) as count:
        assert count("three little words") == 3
