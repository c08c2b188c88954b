"""How fast this device multiplies matrices: what other figures are compared with."""

from __future__ import annotations

import time
from typing import Any, Final

import torch

_CUDA_SIDE: Final = 8192
_CPU_SIDE: Final = 1024
_TURNS: Final = 5


def measure_limit(device: torch.device) -> dict[str, Any]:
    """The rate of one large matrix product, the best of some turns.

    Returns:
        ``tflops``, and ``how`` it was measured.
    """
    on_cuda = device.type == "cuda"
    side, dtype, products = (_CUDA_SIDE, torch.bfloat16, 50) if on_cuda else (_CPU_SIDE, torch.float32, 10)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = left @ right
    best_s = float("inf")
    for _ in range(_TURNS):
        if on_cuda:
            torch.cuda.synchronize()
        started_s = time.perf_counter()
        for _ in range(products):
            torch.mm(left, right, out=out)
        if on_cuda:
            torch.cuda.synchronize()
        best_s = min(best_s, (time.perf_counter() - started_s) / products)
    name = "bf16" if on_cuda else "fp32"
    return {"tflops": 2 * side**3 / best_s / 1e12, "how": f"product of two {side} x {side} {name} matrices, best of 5"}
