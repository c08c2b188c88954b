from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from sam3lt_ray.engine.checkpoint import Checkpoint, resolve_checkpoint
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.errors import CheckpointError, ConfigError
from tests.checkpoints import PROMPTS
from tests.engine_reference import random_checkpoints  # noqa: F401  (a fixture)


@pytest.mark.parametrize("variant", ["s0", "sam3"])
def test_same_tokens_as_the_documented_processor(variant: str, random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    """Sam3Processor calls the tokenizer with padding="max_length", max_length=32."""
    checkpoint = random_checkpoints[variant]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    ids, mask = PromptTokenizer(checkpoint).encode(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        expected = tokenizer(prompt, padding="max_length", max_length=32, return_tensors="np")
        np.testing.assert_array_equal(ids[row], expected["input_ids"][0])
        np.testing.assert_array_equal(mask[row], expected["attention_mask"][0])
    assert ids.shape == mask.shape == (len(PROMPTS), 32)
    assert ids.dtype == mask.dtype == np.int64


def test_count_includes_begin_and_end(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    tokenizer = PromptTokenizer(random_checkpoints["s0"])
    assert [tokenizer.count_tokens(text) for text in ("cat", "red circle", "a cat on the square")] == [3, 4, 7]
    assert PromptTokenizer(random_checkpoints["sam3"]).count_tokens("ear") == 5  # spelled letter by letter


@pytest.mark.parametrize("num_words", [30, 31])
def test_a_prompt_that_is_too_long_is_refused_by_name(
    num_words: int,
    random_checkpoints: dict[str, Checkpoint],  # noqa: F811
) -> None:
    tokenizer = PromptTokenizer(random_checkpoints["s0"])
    text = " ".join(["cat"] * num_words)
    assert tokenizer.count_tokens(text) == num_words + 2
    if num_words == 30:
        assert tokenizer.encode([text])[1].sum() == 32
        return
    with pytest.raises(ConfigError) as caught:
        tokenizer.encode(["ear", text, text + " dog"])
    assert len(caught.value.problems) == 2
    assert "has 33 tokens, at most 32" in caught.value.problems[0]


def test_a_shorter_context_is_padded_to_itself(random_checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:  # noqa: F811
    folder = Path(shutil.copytree(random_checkpoints["s0"].folder, tmp_path / "short"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 6}))
    tokenizer = PromptTokenizer(resolve_checkpoint(str(folder)))
    assert tokenizer.encode(["red cat"])[0].shape == (1, 6)
    with pytest.raises(ConfigError, match="7 tokens, at most 6"):
        tokenizer.encode(["a cat on the square"])


def test_a_missing_tokenizer_is_refused(random_checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:  # noqa: F811
    folder = Path(shutil.copytree(random_checkpoints["s0"].folder, tmp_path / "bare"))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer cannot be loaded"):
        PromptTokenizer(resolve_checkpoint(str(folder)))
