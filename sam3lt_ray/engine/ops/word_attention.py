"""Image tokens meet the words of a prompt."""

from __future__ import annotations

from typing import Final

import torch

from sam3lt_ray.engine.ops.dispatch import is_power_of_two, uses_kernels
from sam3lt_ray.engine.ops.normalization import LayerNorm
from sam3lt_ray.engine.pairs import Pairs
from sam3lt_ray.engine.prompt_attention import PromptAttention

_MOST_COLUMNS: Final = 128  # words x heads that a kernel holds beside a tile of tokens
_MOST_WIDTH: Final = 256


def most_words(num_heads: int) -> int:
    """Tokens that the longest prompt of a vocabulary may have where a kernel is to do this."""
    return _MOST_COLUMNS // num_heads


def attend_words(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    pairs: Pairs,
    before: LayerNorm,
    words: PromptAttention,
    after: LayerNorm,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A residual addition, attention to the words of each pair's prompt behind a norm, and the norm that follows.

    Args:
        x: Image tokens, [n, N, C]; without ``delta`` those of the images, [B, N, C].
        delta: Added to ``x`` first, [n, N, C]; None: nothing.
        pairs: Which image and prompt each of the n pairs is.
        before: Norm in front of the attention.
        words: The attention, folded with all prompts of the vocabulary.
        after: Norm of the sum.

    Returns:
        With y = x + delta: (y + words(before(y)), after(the same)), each [n, N, C].
    """
    width, columns = words.keys.shape[-2:]
    kernels_fit = (
        columns <= most_words(words.num_heads) * words.num_heads and width <= _MOST_WIDTH and is_power_of_two(width, 16)
    )
    if uses_kernels(x.device, x.dtype) and kernels_fit and is_power_of_two(words.num_heads):
        from sam3lt_ray.engine.kernels import word_attention

        return word_attention.attend_words(
            x,
            delta,
            pairs.prompts,
            pairs.images,
            (before.weight, before.bias, before.eps),
            words.keys,
            words.key_bias,
            words.values,
            words.num_heads,
            (after.weight, after.bias, after.eps),
        )
    total = x[pairs.images] if delta is None else x + delta
    total = total + words.select(pairs.prompts)(before(total))
    return total, after(total)
