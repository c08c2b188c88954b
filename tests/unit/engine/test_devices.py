from __future__ import annotations

import pytest
import torch

from sam3lt_ray.engine.devices import Placement, choose_batches, choose_placement
from sam3lt_ray.errors import UsageError

CPU = Placement(torch.device("cpu"), torch.float32)
CUDA = Placement(torch.device("cuda", 0), torch.bfloat16)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu() -> None:
    assert choose_placement("auto", "auto") == CPU
    assert choose_placement("cpu", "bf16").dtype is torch.bfloat16
    with pytest.raises(UsageError, match="torch sees no CUDA GPU"):
        choose_placement("cuda", "auto")


@pytest.mark.usefixtures("gpu")
def test_with_a_gpu() -> None:
    assert choose_placement("auto", "auto").precision == "bf16"
    assert choose_placement("auto", "fp32") == Placement(torch.device("cuda"), torch.float32)
    assert choose_placement("cpu", "auto") == CPU


@pytest.mark.usefixtures("gpu")
def test_an_old_gpu_gets_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose_placement("cuda", "auto").precision == "fp32"


@pytest.mark.parametrize(("device", "precision"), [("mps", "auto"), ("tpu", "auto"), ("cpu", "fp16"), ("cpu", "int8")])
def test_unknown_names_are_refused(device: str, precision: str) -> None:
    with pytest.raises(UsageError, match="not supported: expected auto"):
        choose_placement(device, precision)


def batches(placement: Placement, num_tokens: int, images: int | str, prompts: int | str) -> tuple[int, int]:
    return choose_batches(
        placement,
        num_tokens=num_tokens,
        images_per_batch=images,  # type: ignore[arg-type]
        prompts_per_batch=prompts,  # type: ignore[arg-type]
    )


def test_given_batch_sizes_are_kept() -> None:
    assert batches(CPU, 400, 3, 7) == (3, 7)


def test_batches_on_the_cpu() -> None:
    images, prompts = batches(CPU, 400, "auto", "auto")
    assert images == 1
    assert prompts >= 1


@pytest.mark.parametrize(("free_gib", "expected"), [(140, (8, 64)), (14, (8, 64)), (6, (8, 37)), (1, (1, 6))])
def test_batches_follow_the_memory_of_the_gpu(
    free_gib: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_gib << 30, 1 << 40))
    assert batches(CUDA, 5184, "auto", "auto") == expected
    assert batches(CUDA, 5184, 2, "auto") == (2, expected[1])
