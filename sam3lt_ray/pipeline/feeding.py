"""How many CPU cores it takes so that a GPU does not wait for images.

A rule of thumb from BENCHMARKS.md: JPEGs of 1280 x 960 and the full-size model in bf16 on an H200. Larger images want
more, in proportion to their pixels; slower GPUs want less.
"""

from __future__ import annotations

import math
from typing import Final

_DECODE_MS: Final = 31.0  # one core: JPEG to the model's square
_GPU_MS_PER_IMAGE: Final = 11.5
_GPU_MS_PER_PROMPT: Final = 0.66
_LAUNCHING_CORES: Final = 1  # asks the device for work and turns what it finds into rows


def cores_per_gpu(num_prompts: int) -> int:
    """CPU cores that one GPU keeps busy.

    Args:
        num_prompts: Size of the vocabulary: the more is asked of an image, the slower they come.
    """
    decoding = _DECODE_MS / (_GPU_MS_PER_IMAGE + _GPU_MS_PER_PROMPT * num_prompts)
    return _LAUNCHING_CORES + math.ceil(decoding)
