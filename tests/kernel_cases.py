"""Every Triton kernel beside its plain form: on a CPU through Triton's interpreter, on a GPU for real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sam3lt_ray.engine.layers import Affine, Perceptron
from sam3lt_ray.engine.ops import box_attention as plain_boxes
from sam3lt_ray.engine.ops import box_head as plain_head
from sam3lt_ray.engine.ops import box_refinement as plain_refinement
from sam3lt_ray.engine.ops import mask_changes as plain_changes
from sam3lt_ray.engine.ops import normalization as plain_norm
from sam3lt_ray.engine.ops import rotary as plain_rotary
from sam3lt_ray.engine.ops import token_attention as plain_tokens
from sam3lt_ray.engine.ops import upsampling as plain_upsampling
from sam3lt_ray.engine.ops import word_attention as plain_words
from sam3lt_ray.engine.ops.dispatch import plain_operations
from sam3lt_ray.engine.pairs import make_pairs
from sam3lt_ray.engine.prompt_attention import PromptAttention


@dataclass(frozen=True)
class Maker:
    """Random tensors, the same on every machine."""

    device: torch.device
    dtype: torch.dtype

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> torch.Tensor:
        values = np.random.RandomState(sum(shape)).normal(0, scale, shape).astype(np.float32)
        return torch.from_numpy(values).to(self.device, dtype or self.dtype)

    def float32(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return self.normal(*shape, scale=scale, dtype=torch.float32)

    def norm(self, width: int) -> plain_norm.LayerNorm:
        return plain_norm.LayerNorm(1 + self.float32(width, scale=0.2), self.float32(width, 1)[:, 0], 1e-6)


Results = tuple[torch.Tensor, ...]
Case = Callable[[Maker], tuple[Results, Results]]


def add_norm(
    make: Maker, width: int = 48, with_delta: bool = True, own_positions: bool = False
) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import normalization

    x, delta = make.normal(3, 21, width), make.normal(21, 3, width).view(3, 21, width) if with_delta else None
    norm, positions = make.norm(width), make.normal(3, 21, width) if own_positions else make.float32(21, width)
    found = normalization.add_norm(x, delta, norm.weight, norm.bias, norm.eps, positions)
    with plain_operations():
        return found, plain_norm.add_norm_place(x, delta, norm, positions)


def add_place(make: Maker) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import normalization

    x, delta, positions = make.normal(3, 21, 48), make.normal(21, 3, 48).view(3, 21, 48), make.float32(21, 48)
    found = normalization.add_place(x, delta, positions)
    with plain_operations():
        return found, plain_norm.add_place(x, delta, positions)


def box_deltas(make: Maker) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import box_head

    hidden, norm = make.normal(5, 31, 128), make.norm(128)
    layers = [Affine(make.float32(out, 128, scale=0.1), make.float32(out)) for out in (128, 128, 4)]
    first, second, third = (box_head.split(layer.weight, make.dtype) for layer in layers)
    biases = make.float32(128), make.float32(128), make.float32(4)
    found = box_head.box_deltas(hidden, (norm.weight, norm.bias, norm.eps), (first, second, third), biases)
    return found, plain_head.box_deltas(hidden, plain_head.BoxHead(norm, Perceptron(tuple(layers)), None))


def attend_tokens(
    make: Maker, num_tokens: int, scale: float, head: int = 16, tiles: int = 1
) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import token_attention

    packed = make.normal(2, num_tokens, 3 * 2 * head)
    query, key, value = packed.chunk(3, dim=-1)
    query = query * scale
    with plain_operations():
        expected = plain_tokens.attend_tokens(query, key, value, 2)
    return (token_attention.attend_tokens(query, key, value, 2, tiles),), (expected,)


def attend_words(make: Maker, words: int, with_delta: bool) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import word_attention

    heads, width, num_tokens = 4, 32, 157  # two programs, the second with rows left over
    key_bias = make.normal(6, 1, words * heads)
    key_bias[2, :, 2 * heads :] = -torch.inf  # a shorter prompt
    attention = PromptAttention(
        make.normal(6, width, words * heads, scale=0.3), key_bias, make.normal(6, words * heads, width), heads
    )
    pairs = make_pairs(np.array([(0, 4), (1, 2), (1, 5)], np.int32), make.device)
    x = make.normal(3 if with_delta else 2, num_tokens, width)
    delta = make.normal(3, num_tokens, width, scale=0.7) if with_delta else None
    before, after = make.norm(width), make.norm(width)
    found = word_attention.attend_words(
        x, delta, pairs.prompts, pairs.images, (before.weight, before.bias, before.eps), attention.keys,
        attention.key_bias, attention.values, heads, (after.weight, after.bias, after.eps),
    )  # fmt: skip
    with plain_operations():
        return found, plain_words.attend_words(x, delta, pairs, before, attention, after)


def box_bias(make: Maker) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import box_attention

    boxes = make.float32(3, 7, 4).sigmoid()
    first, second = (make.float32(64, 2), make.float32(64)), (make.float32(4, 64, scale=0.2), make.float32(4))
    split = box_attention.split(*first, make.dtype)
    found = tuple(box_attention.box_bias(boxes, axis, size, split, second) for axis, size in ((0, 10), (1, 7)))
    layers = plain_boxes.AxisBias(first, second, None)
    return found, tuple(plain_boxes.box_bias(boxes, axis, size, layers) for axis, size in ((0, 10), (1, 7)))


def refine_boxes(make: Maker, shared: bool) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import box_refinement

    delta, boxes = make.float32(3, 7, 4), make.float32(1 if shared else 3, 7, 4, scale=4).sigmoid()
    boxes[:, 0] = torch.tensor([0.0, 1.0, 1e-5, 0.9999], device=make.device)  # where logits are clamped
    factors = 6.28 / 10_000 ** (torch.arange(24, device=make.device).float() / 24)
    found = box_refinement.refine_boxes(delta, boxes, factors, 1e-3, make.dtype)
    with plain_operations():
        return found, plain_refinement.refine_boxes(delta, boxes, factors, make.dtype)


def attend_boxes(
    make: Maker, height: int, width: int, shared: bool, scale: float = 1.0, lowered_by: float = 0.0
) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import box_attention

    heads, head, queries = 2, 16, 9
    query = make.normal(3, queries, heads * head) * scale
    key, value = make.normal(3, height * width, 4 * heads * head).chunk(4, dim=-1)[1:3]
    by_row, by_column = (make.float32(1 if shared else 3, heads, queries, size, scale=3) for size in (height, width))
    if lowered_by:  # whole numbers, which bf16 holds: the plain form rounds to it
        by_row, by_column = ((bias.round() - lowered_by) * plain_tokens.BASE_2 for bias in (by_row, by_column))
    found = box_attention.attend_boxes(query, key, value, by_row, by_column, heads)
    with plain_operations():
        return (found,), (plain_boxes.attend_boxes(query, key, value, by_row, by_column, heads),)


def rotate(make: Maker) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import rotary

    packed = make.normal(2 * 15, 3 * 48)  # 3 heads of 16 channels: not a power of two
    angles = make.float32(15, 8)
    found, expected = packed.clone(), packed.clone()
    rotary.rotate(found, angles.cos(), angles.sin())
    with plain_operations():
        plain_rotary.rotate_(expected, angles.cos(), angles.sin())
    return (found,), (expected,)


def upsample(make: Maker, count: int) -> tuple[Results, Results]:
    from sam3lt_ray.engine.kernels import upsampling

    last = torch.channels_last
    phases = make.normal(3, 4 * 16, 6, 8).contiguous(memory_format=last)
    image_parts = make.normal(2, 16, 10, 14).contiguous(memory_format=last)
    images = torch.tensor([1, 0, 1], device=make.device)
    norm = plain_upsampling.GroupNorm(4, 1 + make.float32(16, scale=0.2), make.float32(16, 1)[:, 0], 1e-5)
    queries, offsets = make.normal(3, count, 16), make.float32(3, count)
    summed = upsampling.interleave(phases, image_parts, images, norm.num_groups, norm.eps)
    logits = upsampling.mask_logits(*summed, norm.weight, norm.bias, queries, offsets)
    total = summed[0].clone()
    features = upsampling.norm_relu(*summed, norm.weight, norm.bias)
    with plain_operations():
        plain = plain_upsampling.interleave(phases, image_parts, images, norm)
        expected = plain.values.clone(), plain_upsampling.norm_relu(plain, norm)
        return (total, features, logits), (*expected, plain_upsampling.mask_logits(plain, norm, queries, offsets))


CASES: dict[str, Case] = {
    "add_norm": add_norm,
    "add_norm without delta": lambda make: add_norm(make, 64, with_delta=False),
    "add_norm of wide rows": lambda make: add_norm(make, 320),
    "add_norm with each row's own positions": lambda make: add_norm(make, 48, own_positions=True),
    "add_place": add_place,
    "box_deltas": box_deltas,
    "attend_tokens": lambda make: attend_tokens(make, 128, 0.3),
    "attend_tokens with a rest": lambda make: attend_tokens(make, 150, 0.3),
    "attend_tokens with an overflow": lambda make: attend_tokens(make, 100, 60.0),
    "attend_tokens with wide heads": lambda make: attend_tokens(make, 90, 0.2, head=32),
    "attend_tokens two tiles at a time": lambda make: attend_tokens(make, 256, 0.3, tiles=2),
    "attend_tokens two tiles, one, and a rest": lambda make: attend_tokens(make, 150, 0.3, tiles=2),
    "attend_tokens two tiles with an overflow": lambda make: attend_tokens(make, 200, 60.0, tiles=2),
    "attend_words": lambda make: attend_words(make, 5, with_delta=True),
    "attend_words at the beginning": lambda make: attend_words(make, 4, with_delta=False),
    "box_bias": box_bias,
    "refine_boxes": lambda make: refine_boxes(make, shared=False),
    "refine_boxes from the same ones": lambda make: refine_boxes(make, shared=True),
    "attend_boxes": lambda make: attend_boxes(make, 16, 8, shared=False),
    "attend_boxes on an odd grid": lambda make: attend_boxes(make, 5, 13, shared=False),
    "attend_boxes with an overflow": lambda make: attend_boxes(make, 8, 24, shared=False, scale=60.0),
    "attend_boxes with sums that vanish": lambda make: attend_boxes(make, 5, 13, shared=False, lowered_by=52.0),
    "attend_boxes with one bias for all": lambda make: attend_boxes(make, 8, 24, shared=True),
    "rotate": rotate,
    "upsample": lambda make: upsample(make, 16),
    "upsample with many queries": lambda make: upsample(make, 48),
}


def assert_same_changes(dense: torch.Tensor, threshold: float) -> None:
    """The kernel and its plain form find the same changes, also those it has no room for."""
    from sam3lt_ray.engine.kernels.mask_changes import find_changes

    ends, positions = plain_changes.find_changes_plainly(dense, threshold)
    for capacity in (len(positions) + 5, max(1, len(positions) // 2)):
        found_ends, found = find_changes(dense, threshold, capacity)
        assert found_ends.tolist() == ends.tolist()
        some = min(capacity, len(positions))
        assert found[:some].tolist() == positions[:some].tolist()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


__all__ = ["CASES", "Maker", "assert_same_changes", "relative_error"]
