"""Which form of an operation runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch

_plain_only = False


def uses_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether an operation that computes there in that format has a Triton kernel for it: in bf16 on CUDA."""
    return dtype is torch.bfloat16 and has_triton(device)


def is_power_of_two(number: int, at_least: int = 1) -> bool:
    """What kernels ask of widths that they keep whole."""
    return number >= at_least and number & (number - 1) == 0


@contextmanager
def plain_operations() -> Iterator[None]:
    """Everything in its plain form inside: for comparing the two."""
    global _plain_only  # noqa: PLW0603  (tests and benchmarks alone switch it, in one thread)
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before


def has_triton(device: torch.device) -> bool:
    """Whether Triton kernels run on the device: a CUDA GPU that has bf16, and Triton is there."""
    return not _plain_only and device.type == "cuda" and _has_triton(device)


@cache
def _has_triton(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0) and find_spec("triton") is not None
