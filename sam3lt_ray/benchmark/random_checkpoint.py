"""A checkpoint with random weights in the published size: speed does not depend on what the weights know."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final, Literal

import torch

from sam3lt_ray.benchmark.workloads import words

RandomSize = Literal["full", "tiny"]

_TABLES: Final = (  # values that are added or looked up instead of multiplied
    "position_embedding",
    "token_embedding",
    "query_embed",
    "label_embed",
    "cls_embed",
    "reference_points",
    "presence_token",
)
_SPECIALS: Final = ("<pad>", "<unk>", "<bos>", "<eos>")
# The text encoder of the published S0; everything else is transformers' default, which is the published size.
_FULL: Final[dict[str, Any]] = {
    "text_config": {"num_hidden_layers": 4, "hidden_size": 512, "use_repmixer_blocks": True}
}
_TINY_DETR: Final = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_TINY: Final[dict[str, Any]] = {
    "vision_config": {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 112,
            "patch_size": 14,
            "window_size": 4,
            "global_attn_indexes": [1],
            "pretrain_image_size": 56,
        },
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    },
    "text_config": {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "use_repmixer_blocks": True,
    },
    "geometry_encoder_config": {**_TINY_DETR, "num_layers": 1, "roi_size": 2},
    "detr_encoder_config": _TINY_DETR,
    "detr_decoder_config": {**_TINY_DETR, "num_queries": 10},
    "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 4},
}


def make_random_checkpoint(folder: Path, size: RandomSize) -> Path:
    """Writes config.json, model.safetensors (bf16) and a tokenizer for the benchmark's prompts.

    Args:
        folder: Created if missing.
        size: "full", the published S0, or "tiny", the same architecture small everywhere: for trying the benchmark.

    Returns:
        ``folder``.
    """
    from safetensors.torch import save_file
    from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig
    from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

    folder.mkdir(parents=True, exist_ok=True)
    config = Sam3LiteTextConfig(**(_FULL if size == "full" else _TINY))
    with torch.device("meta"):  # names and shapes only: nothing is initialised twice
        shapes = Sam3LiteTextModel(config).state_dict()
    random = torch.Generator().manual_seed(0)
    save_file(
        {name: _values(name, like, random) for name, like in shapes.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    content = {**config.to_dict(), "architectures": ["Sam3LiteTextModel"]}
    (folder / "config.json").write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
    _write_tokenizer(folder)
    return folder


def _values(name: str, like: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Values that keep activations of ordinary size through all layers."""
    shape, last = tuple(like.shape), name.rsplit(".", 1)[-1]
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    if last == "running_var" or (last == "weight" and len(shape) <= 1):  # norms
        return torch.ones(shape, dtype=torch.bfloat16)
    if last in ("running_mean", "bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if "layer_scale" in name:
        return torch.full(shape, 0.1, dtype=torch.bfloat16)
    values = torch.empty(shape).normal_(0, 1, generator=random)
    fan_in = 1 if any(part in name for part in _TABLES) else math.prod(shape[1:])
    if "scale_layers" in name:  # transposed convolutions keep (in, out, kernel...) and overlap nowhere
        fan_in = shape[0]
    values *= float(fan_in) ** -0.5
    return values.to(torch.bfloat16)


def _write_tokenizer(folder: Path) -> None:
    """One token per word, between begin and end marks."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {token: number for number, token in enumerate([*_SPECIALS, *words()])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])]
    )
    tokenizer.add_special_tokens(list(_SPECIALS))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "model_max_length": 32,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
