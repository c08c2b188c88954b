"""The table of phrases that every training step encodes: the known ones, and ones with unknown words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sam3lt_ray.demo.palette import COLOUR_NAMES, SHAPE_NAMES
from sam3lt_ray.demo.prompts import ANY_SHAPE, NUM_OBJECT_CLASSES, known_phrases, match_table
from sam3lt_ray.demo.tokenizer import UNKNOWN, build_tokenizer


@dataclass(frozen=True, slots=True)
class PhraseTable:
    """All phrases of training, encoded once per step.

    Attributes:
        texts: The phrases; from `num_known` on they hold unknown words, and nothing matches them.
        num_known: How many phrases the checkpoint is taught to find.
        input_ids: int64 [num_phrases, CONTEXT_LENGTH].
        mask: True where a token is no padding, bool [num_phrases, CONTEXT_LENGTH].
        matches: Which object class each phrase names, bool [num_phrases, NUM_OBJECT_CLASSES].
    """

    texts: tuple[str, ...]
    num_known: int
    input_ids: torch.Tensor
    mask: torch.Tensor
    matches: torch.Tensor

    @classmethod
    def build(cls, device: torch.device) -> PhraseTable:
        """The table of the demo's language."""
        known = known_phrases()
        unknown = unknown_phrases()
        texts = (*(phrase.text for phrase in known), *unknown)
        encodings = build_tokenizer().encode_batch(list(texts))
        matches = np.concatenate([match_table(known), np.zeros((len(unknown), NUM_OBJECT_CLASSES), dtype=np.bool_)])
        return cls(
            texts,
            len(known),
            torch.tensor([encoding.ids for encoding in encodings], device=device),
            torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool, device=device),
            torch.from_numpy(matches).to(device),
        )


def unknown_phrases() -> tuple[str, ...]:
    """Phrases with a word outside of the vocabulary ("ear", "red dog", "a small red circle"), one for each pattern."""
    word = UNKNOWN
    alone = [word, f"{word} {word}", f"{word} {word} {word}"]
    after = [f"{colour} {word}" for colour in COLOUR_NAMES]
    before = [f"{word} {shape}" for shape in (*SHAPE_NAMES, ANY_SHAPE)]
    around = [
        f"{word} {colour} {shape}" if number % 2 else f"{colour} {word} {shape}"
        for number, (colour, shape) in enumerate(zip(COLOUR_NAMES, (*SHAPE_NAMES, ANY_SHAPE), strict=True))
    ]
    return (*alone, *after, *before, *around)
