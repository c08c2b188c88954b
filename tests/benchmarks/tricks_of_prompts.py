"""The engine's exact shortcuts before there are masks, each beside the same thing without it: see ``bench_tricks``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear
from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextDetrDecoder, Sam3LiteTextDetrEncoder

from sam3lt_ray.benchmark.workloads import make_prompts
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.detr_encoder import DetrEncoder, EncoderLayer
from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.grounding import Grounding
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.pairs import make_pairs
from sam3lt_ray.engine.prompt_attention import PromptAttention, fold_prompts
from sam3lt_ray.engine.text_bank import TextFeatures, encode_prompts
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.engine.vision import VisionEncoder

CPU = Placement(torch.device("cpu"), torch.float32)
WORDS, PADDED = 4, 32  # tokens of a short prompt, and what the tokenizer makes of it


@dataclass(frozen=True)
class Trick:
    """One shortcut.

    Attributes:
        name: With what it is measured on.
        with_it: The short way; gives the same as the other one.
        without_it: The long way.
        used: Whether the engine takes it.
    """

    name: str
    with_it: Callable[[], Any]
    without_it: Callable[[], Any]
    used: bool = True


def demo_tricks(num_prompts: int) -> list[Trick]:
    """On the demo checkpoint, which is small enough to be run whole."""
    checkpoint = resolve_checkpoint("demo")
    tokenizer, prompts = PromptTokenizer(checkpoint), list(make_prompts(num_prompts))
    model: Any = load_model(checkpoint)

    def encode_text() -> TextFeatures:
        return encode_prompts(model, tokenizer, prompts, CPU.device)

    text = encode_text()
    vision = VisionEncoder(model.vision_encoder, checkpoint, CPU)
    grounding = Grounding(model, text, vision.positions, vision.grid_hw, CPU)
    mask_head = MaskHead(model.mask_decoder, text, vision.grid_hw, CPU)
    side = checkpoint.image_size
    pixels = torch.randint(0, 255, (1, side, side, 3), dtype=torch.uint8)
    features = vision.encode(pixels)
    everything = make_pairs(_image_prompt(range(num_prompts)), CPU.device)
    found = grounding.ground(grounding.start(features.tokens), everything)
    parts = mask_head.image_parts(vision.fine_features(features.backbone))

    def ground(prompt: int, started: torch.Tensor) -> torch.Tensor:
        return grounding.ground(started, make_pairs(_image_prompt([prompt]), CPU.device)).scores

    def vision_once() -> torch.Tensor:
        started = grounding.start(vision.encode(pixels).tokens)
        return torch.cat([ground(prompt, started) for prompt in range(4)])

    def vision_again() -> torch.Tensor:
        return torch.cat([ground(prompt, grounding.start(vision.encode(pixels).tokens)) for prompt in range(4)])

    def text_again() -> torch.Tensor:
        some = encode_text()
        return Grounding(model, some, vision.positions, vision.grid_hw, CPU).start(features.tokens)

    def masks(some: slice) -> torch.Tensor:
        logits = mask_head.logits(
            found.memory[some], everything.prompts[some], parts, everything.images[some], found.queries[some]
        )
        return logits[:2]

    return [
        Trick("vision once per image (demo, 4 prompts)", vision_once, vision_again),
        Trick(
            f"text once per vocabulary (demo, {num_prompts} prompts)",
            lambda: grounding.start(features.tokens),
            text_again,
        ),
        Trick(
            f"mask head for present pairs (demo, 2 of {num_prompts})",
            lambda: masks(slice(0, 2)),
            lambda: masks(slice(0, num_prompts)),
        ),
    ]


def encoder_tricks(side: int) -> list[Trick]:
    """On one layer of the published size; ``side`` is that of the grid of image tokens, 72 there."""
    config = Sam3LiteTextConfig()
    module: Any = Sam3LiteTextDetrEncoder(config.detr_encoder_config).eval()
    tokens, width = side * side, config.detr_encoder_config.hidden_size
    words = torch.randn(2, PADDED, width)
    valid = torch.arange(PADDED)[None].expand(2, -1) < WORDS
    padded, trimmed = TextFeatures(words, valid), TextFeatures(words[:, :WORDS], valid[:, :WORDS])
    positions = torch.randn(tokens, width)
    layer = DetrEncoder(module, trimmed, positions, CPU).layers[1]
    attention = module.layers[1].cross_attn
    long: PromptAttention = fold_prompts(attention, padded, CPU)
    normed = torch.randn(1, tokens, width)
    two = normed.expand(2, -1, -1).contiguous()

    def unfolded() -> torch.Tensor:
        mask = trimmed.valid[:, None, None]
        mixed, _ = attention(query=two, key=trimmed.tokens, value=trimmed.tokens, attention_mask=mask)
        return mixed

    return [
        Trick(
            "encoder: first self-attention once per image (2 prompts)",
            lambda: layer.self_attention(normed, normed + positions).expand(2, -1, -1),
            lambda: layer.self_attention(two, two + positions),
        ),
        _positions_folded(layer, normed, positions),
        Trick("encoder: prompts folded into their attention (2 pairs)", lambda: layer.text(two), unfolded),
        Trick(
            f"encoder: padding trimmed, {WORDS} words of {PADDED} (2 pairs)", lambda: layer.text(two), lambda: long(two)
        ),
        _all_layers_keys(config, tokens),
    ]


def _positions_folded(layer: EncoderLayer, normed: torch.Tensor, positions: torch.Tensor) -> Trick:
    """W (x + positions) = W x + W positions, and then query, key and value are one product."""
    query_key, value = layer.query_key, layer.value
    packed = torch.cat([query_key.weight, value.weight])
    constant = linear(positions, query_key.weight, query_key.bias)
    width = 2 * normed.shape[-1]

    def folded() -> torch.Tensor:
        out = linear(normed, packed)
        out[..., :width] += constant
        return out

    def added() -> torch.Tensor:
        return torch.cat([query_key(normed + positions), value(normed)], dim=-1)

    def as_it_is() -> tuple[torch.Tensor, torch.Tensor]:
        return query_key(normed + positions), value(normed)

    assert torch.allclose(folded(), added(), atol=1e-3)
    return Trick("encoder: positions folded into a product of Q, K and V", folded, as_it_is, used=False)


def _all_layers_keys(config: Any, tokens: int) -> Trick:
    module: Any = Sam3LiteTextDetrDecoder(config.detr_decoder_config).eval()
    layers = [layer.vision_cross_attn for layer in module.layers]
    memory = torch.randn(1, tokens, config.detr_decoder_config.hidden_size)
    keys, values = (torch.cat([getattr(one, name).weight for one in layers]) for name in ("k_proj", "v_proj"))

    def together() -> torch.Tensor:
        return torch.stack([linear(memory, keys), linear(memory, values)])

    def one_by_one() -> torch.Tensor:
        parts = [[linear(memory, getattr(one, name).weight) for one in layers] for name in ("k_proj", "v_proj")]
        return torch.stack([torch.cat(some, dim=-1) for some in parts])

    assert torch.allclose(together(), one_by_one(), atol=1e-3)

    def apart() -> list[torch.Tensor]:
        return [linear(memory, one.k_proj.weight) for one in layers] + [
            linear(memory, one.v_proj.weight) for one in layers
        ]

    return Trick(
        "decoder: keys and values of six layers in one product each (1 pair)",
        lambda: (linear(memory, keys), linear(memory, values)),
        apart,
    )


def _image_prompt(prompts: Any) -> Any:
    return np.array([(0, prompt) for prompt in prompts], np.int32)
