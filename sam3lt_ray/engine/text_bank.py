"""Text features of the vocabulary: computed once, then the text encoder can go."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.terminal import name_some

logger = logging.getLogger(__name__)

_PROMPTS_AT_ONCE: Final = 128


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """The encoded vocabulary, in float32.

    Attributes:
        tokens: Features in the width of the DETR encoder, [P, T, C]; T is the longest prompt's length, on CUDA the
            next power of two.
        valid: False at padding, bool [P, T].
    """

    tokens: torch.Tensor
    valid: torch.Tensor


def encode_prompts(
    model: Any, tokenizer: PromptTokenizer, prompts: Sequence[str], device: torch.device
) -> TextFeatures:
    """Runs the text encoder over the vocabulary.

    Prompts are padded to the documented length before they are encoded, because LiteText's convolutions and its
    interpolated positions see that length; only afterwards the columns that are padding in every prompt are dropped,
    which the masked attentions downstream cannot notice.

    Args:
        model: The transformers model; its text encoder is moved to ``device``.
        tokenizer: Of the same checkpoint.
        prompts: The vocabulary, in order.
        device: Where to compute.
    """
    ids, mask = (torch.from_numpy(array).to(device) for array in tokenizer.encode(prompts))
    model.text_encoder.to(device)
    model.text_projection.to(device)
    parts = [
        model.text_projection(model.text_encoder(input_ids=some_ids, attention_mask=some_mask).last_hidden_state)
        for some_ids, some_mask in zip(*(torch.split(both, _PROMPTS_AT_ONCE) for both in (ids, mask)), strict=True)
    ]
    length = int(mask.any(dim=0).nonzero().max()) + 1
    if device.type == "cuda":  # few different lengths, so that other vocabularies find the kernels compiled
        length = min(1 << (length - 1).bit_length(), mask.shape[1])
    return TextFeatures(torch.cat(parts)[:, :length].contiguous(), mask[:, :length].bool())


def warn_of_long_prompts(prompts: Sequence[str], text: TextFeatures, most_words: int) -> None:
    """Says which prompts make the whole vocabulary slower: its words are attended in the length of the longest.

    Args:
        prompts: The vocabulary.
        text: The same, encoded.
        most_words: Tokens that the fast way takes.
    """
    lengths = text.valid.sum(dim=1).tolist()
    long = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > most_words]
    if long:
        logger.warning(
            "%d of %d prompts have more than %d tokens (%s): attention to words takes a slower way for all prompts. "
            "Shorter ones would be labeled faster.",
            len(long),
            len(prompts),
            most_words,
            name_some([repr(prompt) for prompt in long], 3),
        )
