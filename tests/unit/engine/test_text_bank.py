from __future__ import annotations

import logging

import pytest
import torch

import sam3lt_ray.engine.segmenter as segmenter_module
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.ops.word_attention import most_words
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.engine.text_bank import TextFeatures, warn_of_long_prompts
from tests.engine_reference import random_checkpoints  # noqa: F401  (a fixture)

CPU = EngineSettings(device="cpu", precision="fp32")


def text_of(lengths: list[int]) -> TextFeatures:
    valid = torch.arange(32)[None] < torch.tensor(lengths)[:, None]
    return TextFeatures(torch.zeros(len(lengths), 32, 4), valid)


def test_prompts_that_slow_the_vocabulary_down_are_named(caplog: pytest.LogCaptureFixture) -> None:
    assert most_words(8) == 16  # of the published models
    prompts = ["cat", "one", "two", "three", "four"]
    with caplog.at_level(logging.WARNING, logger="sam3lt_ray"):
        warn_of_long_prompts(prompts, text_of([3, 16, 4, 5, 6]), 16)
        assert caplog.text == ""
        warn_of_long_prompts(prompts, text_of([3, 17, 4, 5, 6]), 16)
        warn_of_long_prompts(prompts, text_of([3, 17, 18, 19, 32]), 16)
    first, second = caplog.messages
    assert first.startswith("1 of 5 prompts have more than 16 tokens ('one'): ")
    assert "('one', 'two', 'three', ...)" in second


@pytest.mark.parametrize("has_kernels", [False, True])
def test_it_is_said_once_at_load_and_only_where_kernels_run(
    random_checkpoints: dict[str, Checkpoint],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    has_kernels: bool,
) -> None:
    monkeypatch.setattr(segmenter_module, "uses_kernels", lambda *_: has_kernels)
    long = "cat " * 29  # 31 tokens; 4 heads have room for 32 words
    with caplog.at_level(logging.WARNING, logger="sam3lt_ray"):
        Segmenter.load(random_checkpoints["s0"], ["dog", long], CPU)
        assert caplog.text == ""
        monkeypatch.setattr(segmenter_module, "most_words", lambda _: 16)
        Segmenter.load(random_checkpoints["s0"], ["dog", long], CPU)
    assert [long in message for message in caplog.messages] == [True] * has_kernels
