"""The demo checkpoint's tokenizer: one token per word of its tiny language.

The text encoder pools at the position of the largest token id, as CLIP does, so the end token has the highest id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from sam3lt_ray.demo.palette import COLOUR_NAMES, SHAPE_NAMES
from sam3lt_ray.demo.prompts import ANY_SHAPE

PAD, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[BOS]", "[EOS]"
CONTEXT_LENGTH: Final = 8
WORDS: Final[tuple[str, ...]] = (*COLOUR_NAMES, *SHAPE_NAMES, ANY_SHAPE)
VOCABULARY: Final[tuple[str, ...]] = (PAD, UNKNOWN, BEGIN, *WORDS, END)


def build_tokenizer() -> Tokenizer:
    """Builds the word-level tokenizer: lower-cases, drops punctuation, wraps in begin and end tokens."""
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\w\s]|_"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, ids[BEGIN]), (END, ids[END])]
    )
    tokenizer.add_special_tokens([PAD, UNKNOWN, BEGIN, END])
    tokenizer.enable_padding(pad_id=ids[PAD], pad_token=PAD, length=CONTEXT_LENGTH)
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, as transformers reads them."""
    special = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": BEGIN, "eos_token": END}
    build_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        **special,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_LENGTH,
        "padding_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
