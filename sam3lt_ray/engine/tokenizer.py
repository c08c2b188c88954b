"""Prompts to token ids, exactly as the documented Sam3Processor does it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sam3lt_ray.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from sam3lt_ray.engine.checkpoint import Checkpoint


class PromptTokenizer:
    """The checkpoint's own tokenizer.

    transformers builds some tokenizers (CLIP's) from parts of tokenizer.json only, so the file alone would not
    necessarily give the same tokens; the loading is therefore left to transformers, which imports torch.

    Args:
        checkpoint: Whose tokenizer.

    Raises:
        CheckpointError: There is no tokenizer, or it would need code from the checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns in every forked worker otherwise
        from transformers import AutoTokenizer

        self.max_tokens = checkpoint.max_tokens
        self._name = checkpoint.name
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r}: its tokenizer cannot be loaded from {checkpoint.folder}: {error}"
            ) from None
        if self._tokenizer.pad_token_id is None:
            raise CheckpointError(f"checkpoint {checkpoint.name!r}: its tokenizer has no padding token.")

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a prompt, begin and end marks included."""
        return len(self._tokenizer(text, padding=False, truncation=False, verbose=False)["input_ids"])

    def encode(self, prompts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Token ids and attention mask, both int64 [P, max_tokens], padded to ``max_tokens``.

        Raises:
            ConfigError: A prompt has more than ``max_tokens`` tokens; every such prompt is named.
        """
        encoded = self._tokenizer(
            list(prompts), padding="max_length", max_length=self.max_tokens, truncation=False, verbose=False
        )
        problems = [
            f"prompt {prompt!r} is too long for {self._name!r}: it has {len(mask)} tokens, at most {self.max_tokens} "
            "are possible"
            for prompt, mask in zip(prompts, encoded["attention_mask"], strict=True)
            if len(mask) > self.max_tokens
        ]
        if problems:
            raise ConfigError(problems)
        return (
            np.asarray(encoded["input_ids"], dtype=np.int64),
            np.asarray(encoded["attention_mask"], dtype=np.int64),
        )
