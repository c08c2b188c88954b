"""What each kernel of the engine gains over the best of torch for the same thing, at the published size, on a GPU.

    python -m tests.benchmarks.bench_kernels [--quick] [--json FILE]

Microseconds per image (vision) or per (image, prompt) pair (everything else), from CUDA events: the median of three
times so many repeats. Every line is one layer's worth. The other side is what torch offers: its attention kernels
(cuDNN's and flash attention), separate element-wise kernels, dense bias.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam3lt_ray.engine.ops.box_attention import attend_boxes, box_bias, make_axis_bias
from sam3lt_ray.engine.ops.box_refinement import refine_boxes
from sam3lt_ray.engine.ops.dispatch import plain_operations
from sam3lt_ray.engine.ops.normalization import LayerNorm, add_norm
from sam3lt_ray.engine.ops.rotary import rotate_
from sam3lt_ray.engine.ops.token_attention import BASE_2, attend_tokens, split_heads
from sam3lt_ray.engine.ops.upsampling import GroupNorm, interleave, mask_logits
from sam3lt_ray.engine.ops.word_attention import attend_words
from sam3lt_ray.engine.pairs import Pairs
from sam3lt_ray.engine.prompt_attention import PromptAttention
from tests.benchmarks.measuring import finish, load_now, print_table, read_options

PAIRS, IMAGES, TOKENS, WIDTH, HEADS, QUERIES, GRID = 32, 8, 5184, 256, 8, 201, 72
VISION_WIDTH, VISION_HEADS, WINDOW = 1024, 16, 576

Timed = Callable[[], Any]


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def norm(width: int) -> LayerNorm:
    return LayerNorm(normal(width, dtype=torch.float32), normal(width, dtype=torch.float32), 1e-6)


def microseconds(work: Timed, repeats: int) -> float:
    """Of one call."""
    for _ in range(3):
        work()
    times = []
    for _ in range(3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            work()
        end.record()
        torch.cuda.synchronize()
        times.append(1000 * begin.elapsed_time(end) / repeats)
    return statistics.median(times)


def sdpa(query: Any, key: Any, value: Any, heads: int, backend: SDPBackend) -> Timed:
    parts = [split_heads(part, heads) for part in (query, key, value)]

    def work() -> Any:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(*parts, scale=1 / BASE_2)

    return work


def plainly(work: Timed) -> Timed:
    def plain() -> Any:
        with plain_operations():
            return work()

    return plain


def token_attention(num_sequences: int, length: int, width: int, heads: int) -> dict[str, Timed]:
    query, key, value = (normal(num_sequences, length, 3 * width) * 0.3).chunk(3, dim=-1)
    return {
        "kernel": lambda: attend_tokens(query, key, value, heads),
        "cuDNN": sdpa(query, key, value, heads, SDPBackend.CUDNN_ATTENTION),
        "flash": sdpa(query, key, value, heads, SDPBackend.FLASH_ATTENTION),
    }


def with_plain(work: Timed) -> dict[str, Timed]:
    return {"kernel": work, "plain": plainly(work)}


def cases() -> dict[str, tuple[int, dict[str, Timed]]]:
    """Name -> what a call is divided by, and the ways."""
    tokens, delta = normal(PAIRS, TOKENS, WIDTH), normal(PAIRS, TOKENS, WIDTH)
    states, change = normal(IMAGES, TOKENS, VISION_WIDTH), normal(IMAGES, TOKENS, VISION_WIDTH)
    packed = normal(IMAGES * TOKENS, 3 * VISION_WIDTH)
    angles = normal(WINDOW, VISION_WIDTH // VISION_HEADS // 2, dtype=torch.float32)
    columns = 8 * HEADS
    words = PromptAttention(
        normal(PAIRS, WIDTH, columns) / 16, normal(PAIRS, 1, columns), normal(PAIRS, columns, WIDTH), HEADS
    )
    numbers = torch.arange(PAIRS, device="cuda", dtype=torch.int32)
    pairs, before, after, wide = Pairs(numbers, numbers), norm(WIDTH), norm(WIDTH), norm(VISION_WIDTH)
    queries, memory = normal(PAIRS, QUERIES, WIDTH) * 0.25, normal(PAIRS, TOKENS, 2 * WIDTH)
    by_row, by_column = (normal(PAIRS, HEADS, QUERIES, GRID, dtype=torch.float32) for _ in range(2))
    key, value = memory.chunk(2, dim=-1)
    boxes = normal(PAIRS, QUERIES - 1, 4, dtype=torch.float32).sigmoid()
    first = normal(WIDTH, 2, dtype=torch.float32), normal(WIDTH, dtype=torch.float32)
    second = normal(HEADS, WIDTH, dtype=torch.float32) / 16, normal(HEADS, dtype=torch.float32)
    layers = make_axis_bias(first, second, torch.bfloat16)
    factors = 2 * math.pi / 10_000 ** (torch.arange(WIDTH // 2, device="cuda").float() / (WIDTH // 2))
    bias, weight = normal(2048), normal(2048, WIDTH) / 16
    last = torch.channels_last
    phases = normal(8, 4 * WIDTH, 145, 145).contiguous(memory_format=last)
    parts = normal(1, WIDTH, 288, 288).contiguous(memory_format=last)
    images = torch.zeros(8, dtype=torch.int32, device="cuda")
    group = GroupNorm(8, normal(WIDTH, dtype=torch.float32), normal(WIDTH, dtype=torch.float32), 1e-5)
    kept, offsets = normal(8, 3, WIDTH), normal(8, 3, dtype=torch.float32)

    def masks() -> Any:
        return mask_logits(interleave(phases, parts, images, group), group, kept, offsets)

    return {
        "vision: window attention": (IMAGES, token_attention(IMAGES * 9, WINDOW, VISION_WIDTH, VISION_HEADS)),
        "vision: whole-image attention": (IMAGES, token_attention(IMAGES, TOKENS, VISION_WIDTH, VISION_HEADS)),
        "vision: rotary positions": (IMAGES, with_plain(lambda: rotate_(packed, angles, angles))),
        "vision: residual and norm": (IMAGES, with_plain(lambda: add_norm(states, change, wide))),
        "encoder: self-attention": (PAIRS, token_attention(PAIRS, TOKENS, WIDTH, HEADS)),
        "encoder: residual, norm, words, norm": (
            PAIRS,
            with_plain(lambda: attend_words(tokens, delta, pairs, before, words, after)),
        ),
        "encoder: first product and ReLU": (
            PAIRS,
            {
                "kernel": lambda: torch._addmm_activation(bias, tokens.flatten(0, 1), weight.t()),
                "plain": lambda: functional.relu_(functional.linear(tokens, weight, bias)),
            },
        ),
        "decoder: attention to the image": (
            PAIRS,
            with_plain(lambda: attend_boxes(queries, key, value, by_row, by_column, HEADS)),
        ),
        "decoder: bias along one axis": (
            PAIRS,
            with_plain(lambda: box_bias(boxes, 0, GRID, layers)),
        ),
        "decoder: boxes refined, encoded": (
            PAIRS,
            with_plain(lambda: refine_boxes(boxes, boxes, factors, torch.bfloat16)),
        ),
        "masks: last upsampling, 3 queries": (8, with_plain(masks)),
    }


@torch.inference_mode()
def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    if not torch.cuda.is_available():
        print("torch sees no CUDA GPU; there is nothing to compare.")
        return
    rows, figures = [], {}
    for name, (divisor, ways) in cases().items():
        times = {way: microseconds(work, 3 if options.quick else 20) / divisor for way, work in ways.items()}
        others = {way: value for way, value in times.items() if way != "kernel"}
        best = min(others, key=lambda way: others[way])
        rows.append(
            [name, f"{times['kernel']:.2f}", f"{others[best]:.2f} ({best})", f"{others[best] / times['kernel']:.2f}"]
        )
        figures[name] = times
    print_table(["microseconds", "ours", "the best of torch", "ratio"], rows)
    finish(options, {"microseconds": figures, "gpu": torch.cuda.get_device_name()}, load_before)


if __name__ == "__main__":
    main()
