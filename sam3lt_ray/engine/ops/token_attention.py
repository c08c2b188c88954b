"""Attention of image tokens among themselves."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch.nn import functional

from sam3lt_ray.engine.ops.dispatch import is_power_of_two, uses_kernels

BASE_2: Final = math.log2(math.e)  # folded into query weights, so that softmax becomes powers of two


def attend_tokens(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Multi-head attention with logits to the base 2: weights are 2^(q . k) over their sum.

    Args:
        query: [n, N, C], already scaled by log2(e) / sqrt(C / heads).
        key: [n, N, C]; all three may be parts of a wider tensor.
        value: [n, N, C].
        num_heads: Attention heads.

    Returns:
        [n, N, C].
    """
    head = query.shape[-1] // num_heads
    if uses_kernels(query.device, query.dtype) and is_power_of_two(head, 16):
        from sam3lt_ray.engine.kernels import token_attention

        return token_attention.attend_tokens(query, key, value, num_heads)
    return attend(query, key, value, num_heads, scale=1 / BASE_2)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    num_heads: int,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Multi-head attention as torch has it.

    Args:
        query: [n, Q, C].
        key: [n, N, C].
        value: [n, N, C].
        num_heads: Attention heads.
        bias: Added to the logits, [n or 1, heads, queries, keys].
        scale: Of the logits; None: 1 / sqrt(C / heads).
    """
    mixed = functional.scaled_dot_product_attention(
        split_heads(query, num_heads),
        split_heads(key, num_heads),
        split_heads(value, num_heads),
        attn_mask=bias,
        scale=scale,
    )
    return mixed.transpose(-3, -2).flatten(-2)


def split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """[n, length, C] as [n, heads, length, C / heads]; a view."""
    return torch.unflatten(x, -1, (num_heads, -1)).transpose(-3, -2)
