"""The Triton kernels, compiled, against their plain forms on the same GPU, both in bf16; and what they are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.ops.dispatch import plain_operations
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from tests.engine_reference import smooth_image
from tests.kernel_cases import CASES, Maker, relative_error


@pytest.mark.parametrize("name", CASES)
def test_kernel_is_its_plain_form(name: str) -> None:
    with torch.inference_mode():
        found, expected = CASES[name](Maker(torch.device("cuda"), torch.bfloat16))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.isfinite(one).all()
        assert relative_error(one, other) < 0.01  # both round to 8 bits, at different places


def test_attention_at_full_size_is_exact_to_rounding() -> None:
    from sam3lt_ray.engine.kernels.token_attention import attend_tokens

    for heads, head, num_tokens in ((8, 32, 5184), (16, 64, 5184), (16, 64, 576)):
        make = Maker(torch.device("cuda"), torch.bfloat16)
        query, key, value = make.normal(2, num_tokens, 3 * heads * head).chunk(3, dim=-1)
        query = query * 0.25
        found = attend_tokens(query, key, value, heads)
        with plain_operations():
            from sam3lt_ray.engine.ops.token_attention import attend_tokens as plainly

            rounded = plainly(query, key, value, heads)
            exact = plainly(query.double(), key.double(), value.double(), heads)
        assert relative_error(found, exact) < max(1.1 * relative_error(rounded, exact), 0.003)


@contextmanager
def compilations() -> Iterator[list[str]]:
    import triton

    compiled: list[str] = []
    before = triton.knobs.runtime.jit_post_compile_hook
    triton.knobs.runtime.jit_post_compile_hook = lambda **details: compiled.append(details.get("repr"))
    try:
        yield compiled
    finally:
        triton.knobs.runtime.jit_post_compile_hook = before


def test_nothing_is_compiled_after_the_first_load() -> None:
    """Neither for other image sizes, nor other numbers of images, nor other vocabularies with prompts as long."""
    checkpoint = resolve_checkpoint("demo")
    settings = EngineSettings(device="cuda", precision="bf16", images_per_batch=4, score_floor=0.05)
    words = ["red circle", "star", "blue square", "ring", "green cross", "heart", "pink shape"]
    image = smooth_image(checkpoint.image_size, 0)
    Segmenter.load(checkpoint, words[:3], settings)
    with compilations() as later:
        for count in (1, 2, 5, 7):
            segmenter = Segmenter.load(checkpoint, words[:count], settings)
            for images, size_hw in ((1, (31, 47)), (4, (640, 480)), (9, (1, 900)), (16, (333, 500))):
                segmenter.segment([image] * images, [size_hw] * images)
    assert later == []


def test_longer_prompts_are_compiled_for_when_they_are_loaded() -> None:
    """The number of tokens is that of a vocabulary, up to the demo's 8 here: labeling with it compiles nothing."""
    words = ["a small red circle"]
    checkpoint = resolve_checkpoint("demo")
    settings = EngineSettings(device="cuda", precision="bf16", images_per_batch=4, score_floor=0.05)
    segmenter = Segmenter.load(checkpoint, words, settings)
    image = smooth_image(checkpoint.image_size, 0)
    with compilations() as later:
        for images, size_hw in ((1, (31, 47)), (4, (640, 480)), (9, (1, 900)), (16, (333, 500))):
            segmenter.segment([image] * images, [size_hw] * images)
        Segmenter.load(checkpoint, [*words, "heart"], settings).segment([image], [(31, 47)])
    assert later == []


def test_compilations_are_counted() -> None:
    """Otherwise the test above could not fail: rows of a width that nothing else has are new to everybody."""
    from sam3lt_ray.engine.kernels.normalization import add_norm

    make = Maker(torch.device("cuda"), torch.bfloat16)
    with compilations() as compiled:
        for _ in range(2):
            add_norm(make.normal(3, 424), None, make.float32(424), make.float32(424), 1e-6)
    assert len(compiled) == 1


def test_a_kernel_run_twice_gives_the_same_bits() -> None:
    checkpoint = resolve_checkpoint("demo")
    segmenter = Segmenter.load(
        checkpoint, ["red shape", "star"], EngineSettings(device="cuda", precision="bf16", score_floor=0.01)
    )
    images = [smooth_image(checkpoint.image_size, seed) for seed in range(3)]
    first, second = (segmenter.segment(images, [(200, 300)] * 3) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.presence, other.presence)
        assert one.detections == other.detections
