"""Tiny checkpoints with random weights, made the same on every machine: the real architecture, small everywhere.

Every weight is drawn from NumPy's frozen ``RandomState`` stream, seeded by its own name, so that a golden result
computed elsewhere belongs to the very same model. The module imports nothing of the package under test.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers.models.sam3.configuration_sam3 import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

Variant = Literal["s0", "s1", "l", "sam3"]
VARIANTS: tuple[Variant, ...] = ("s0", "s1", "l", "sam3")

IMAGE_SIZE = 112
NUM_QUERIES = 10
_SENTENCE = "red green blue yellow circle square triangle star shape ear cat dog striped dotted a the of on"
WORDS = tuple(_SENTENCE.split())
PROMPTS = ("red circle", "square", "blue shape", "the striped yellow star", "ear", "cat on the green triangle", "dog")

# The text encoders of the published sizes differ in these; what is not the point is made small.
_LITE_TEXT: dict[str, dict[str, Any]] = {
    "s0": {"hidden_size": 512, "num_hidden_layers": 4, "use_repmixer_blocks": True, "num_attention_heads": 8},
    "s1": {"hidden_size": 128, "num_hidden_layers": 12, "use_repmixer_blocks": False, "num_attention_heads": 4},
    "l": {"hidden_size": 768, "num_hidden_layers": 2, "use_repmixer_blocks": False, "num_attention_heads": 12},
}

# Chosen by looking: with these some pairs are present and some are absent.
_PRESENCE_BIAS = {"s0": -4.5, "s1": 0.5, "l": -2.0, "sam3": 2.0}


def make_random_checkpoint(folder: Path, variant: Variant, *, seed: int = 0) -> Path:
    """Writes a complete checkpoint folder: config.json, model.safetensors, tokenizer and preprocessor settings.

    Args:
        folder: Created if missing.
        variant: Which published model the text encoder imitates.
        seed: Another number gives other weights.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = build_model(variant)
    state = {name: _weight(name, tensor, f"{variant}-{seed}") for name, tensor in model.state_dict().items()}
    state["detr_decoder.presence_head.layer3.bias"] += _PRESENCE_BIAS[variant]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str))
    _write_tokenizer(folder, variant)
    processor = {
        "image_processor_type": "Sam3ImageProcessor",
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def build_model(variant: Variant) -> Sam3LiteTextModel | Sam3Model:
    """The architecture of ``variant`` with transformers' own initial weights."""
    detr = {"hidden_size": 32, "num_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "dropout": 0.1}
    shared: dict[str, Any] = {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 48,
                "intermediate_size": 96,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "image_size": IMAGE_SIZE,
                "patch_size": 14,
                "window_size": 4,
                "global_attn_indexes": [1],
                "pretrain_image_size": 56,
            },
            "model_type": "sam3_vision_model",
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        "geometry_encoder_config": {**detr, "num_layers": 1, "roi_size": 2},
        "detr_encoder_config": detr,
        "detr_decoder_config": {**detr, "num_queries": NUM_QUERIES},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 4},
    }
    if variant == "sam3":
        text: dict[str, Any] = {
            "vocab_size": len(_clip_vocabulary()),
            "hidden_size": 64,
            "intermediate_size": 128,
            "projection_dim": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            "hidden_act": "gelu",
            "model_type": "clip_text_model",
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }
        return Sam3Model(Sam3Config(text_config=text, **shared)).eval()
    text = {
        "vocab_size": len(WORDS) + 4,
        "intermediate_size": 96,
        "projection_dim": 32,
        "max_position_embeddings": 77,
        **_LITE_TEXT[variant],
    }
    return Sam3LiteTextModel(Sam3LiteTextConfig(text_config=text, **shared)).eval()


def _weight(name: str, like: torch.Tensor, salt: str) -> torch.Tensor:
    random = np.random.RandomState(zlib.crc32(f"{salt}:{name}".encode()))
    shape = tuple(like.shape)
    last = name.rsplit(".", 1)[-1]
    if not like.is_floating_point():
        return like.clone()
    if last == "running_var":
        values = random.uniform(0.5, 2.0, shape)
    elif last == "running_mean":
        values = random.normal(0.0, 0.3, shape)
    elif "layer_scale" in name:
        values = random.normal(0.5, 0.1, shape)
    elif "norm" in name:
        values = random.normal(1.0 if last == "weight" else 0.0, 0.2, shape)
    elif last == "bias":
        values = random.normal(0.0, 0.2, shape)
    elif "reference_points" in name or "presence_token" in name:
        values = random.normal(0.0, 1.5, shape)
    elif "query_embed" in name:
        values = random.normal(0.0, 3.0, shape)
    elif "embed" in name and len(shape) <= 4 and "_rpb_" not in name and "mask_embedder" not in name:
        values = random.normal(0.0, 0.7, shape)
    else:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        if "scale_layers" in name:  # transposed convolutions keep (in, out, kernel...) and overlap nowhere
            fan_in = shape[0]
        values = random.normal(0.0, fan_in**-0.5, shape)
    return torch.from_numpy(np.asarray(values * _gain(name), dtype=np.float32).reshape(shape))


def _gain(name: str) -> float:
    """Factors that spread scores, presence and mask logits over both sides of their thresholds."""
    if name.endswith("weight"):
        for part, gain in (
            ("presence_head.layer3", 5.0),
            ("dot_product_scoring.query_proj", 5.0),
            ("mask_embedder.layers", 1.5),
            ("text_projection", 2.0),
            ("cross_attn.q_proj", 2.0),
            ("cross_attn.k_proj", 2.0),
            ("detr_decoder.layers.0.mlp.fc2", 0.4),
            ("detr_decoder.layers.1.mlp.fc2", 0.4),
            ("detr_decoder.layers.2.mlp.fc2", 0.4),
            ("self_attn.o_proj", 0.5),
            ("cross_attn.o_proj", 0.7),
            ("box_head.layer3", 0.5),
        ):
            if part in name:
                return gain
    return 1.0


def _write_tokenizer(folder: Path, variant: Variant) -> None:
    if variant == "sam3":
        from transformers import CLIPTokenizer

        CLIPTokenizer(vocab=_clip_vocabulary(), merges=[]).save_pretrained(folder)
        return
    specials = ["<pad>", "<unk>", "<bos>", "<eos>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])]
    )
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "model_max_length": 32,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _clip_vocabulary() -> dict[str, int]:
    """Characters only, no merges: enough for a real CLIP tokenizer to spell any lower-case prompt."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-'"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return {token: index for index, token in enumerate(tokens)}
