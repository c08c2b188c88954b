"""Floating point operations by formula: what the published algorithm needs, not what anybody happens to execute.

A product of [a, b] and [b, c] counts 2 a b c. Norms, activations, softmax and interpolation count nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GIGA = 1e9
_TEXT_LENGTH = 32


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """FLOP of the parts.

    Attributes:
        vision: Once per image: transformer, and the pyramid level that prompts are grounded in.
        fine_levels: Once per image that has an instance: the pyramid's finer levels.
        encoder: DETR encoder, per prompt.
        decoder: DETR decoder with its heads, per prompt.
        mask_decoder: Per prompt whose masks are wanted.
    """

    vision: float
    fine_levels: float
    encoder: float
    decoder: float
    mask_decoder: float

    def per_image(self, num_prompts: int, num_present: int) -> float:
        """What one image needs: masks only where there are instances."""
        fine = self.fine_levels if num_present else 0.0
        return self.vision + fine + num_prompts * (self.encoder + self.decoder) + num_present * self.mask_decoder

    def to_json(self) -> dict[str, float]:
        """In GFLOP."""
        return {name: value / GIGA for name, value in asdict(self).items()}


def model_flops(config: Any) -> ModelFlops:
    """Counts from a transformers config (Sam3Config, Sam3LiteTextConfig)."""
    backbone = config.vision_config.backbone_config
    side = config.image_size // backbone.patch_size
    levels = [_pyramid_level(config.vision_config, side, scale) for scale in config.vision_config.scale_factors[:-1]]
    return ModelFlops(
        vision=_vision_transformer(backbone, side) + levels[-1],
        fine_levels=sum(levels[:-1]),
        encoder=_encoder(config.detr_encoder_config, side * side),
        decoder=_decoder(config.detr_decoder_config, side),
        mask_decoder=_mask_decoder(config, side, num_levels=len(levels)),
    )


def _linear(rows: int, inputs: int, outputs: int) -> float:
    return 2.0 * rows * inputs * outputs


def _attention(queries: int, keys: int, width: int) -> float:
    """Logits and mixing, without projections."""
    return 4.0 * queries * keys * width


def _cross_attention(queries: int, keys: int, width: int) -> float:
    """With projections of queries, keys, values and the result."""
    return 2 * _linear(queries, width, width) + 2 * _linear(keys, width, width) + _attention(queries, keys, width)


def _vision_transformer(config: Any, side: int) -> float:
    tokens, width, window = side * side, config.hidden_size, config.window_size
    global_layers = len(config.global_attn_indexes)
    padded = (-(-side // window) * window) ** 2  # tokens after padding to whole windows
    dense = 4 * _linear(tokens, width, width) + 2 * _linear(tokens, width, config.intermediate_size)
    total = _linear(tokens, 3 * config.patch_size**2, width) + config.num_hidden_layers * dense
    total += global_layers * _attention(tokens, tokens, width)
    return float(total + (config.num_hidden_layers - global_layers) * _attention(padded, window * window, width))


def _pyramid_level(config: Any, side: int, scale: float) -> float:
    """Transposed convolutions up to the scale, then 1 x 1 and 3 x 3."""
    width, out, total = config.backbone_config.hidden_size, config.fpn_hidden_size, 0.0
    while scale > 1:
        total += _linear(side * side, width, 4 * (width // 2))
        side, width, scale = 2 * side, width // 2, scale / 2
    return total + _linear(side * side, width, out) + _linear(side * side, 9 * out, out)


def _encoder(config: Any, tokens: int) -> float:
    width = config.hidden_size
    layer = (
        _cross_attention(tokens, tokens, width)
        + _cross_attention(tokens, _TEXT_LENGTH, width)
        + 2 * _linear(tokens, width, config.intermediate_size)
    )
    return float(config.num_layers * layer)


def _decoder(config: Any, side: int) -> float:
    width, queries, heads = config.hidden_size, config.num_queries, config.num_attention_heads
    rows = queries + 1  # with the presence token
    layer = (
        _cross_attention(rows, rows, width)
        + _cross_attention(rows, _TEXT_LENGTH, width)
        + _cross_attention(rows, side * side, width)
        + 2 * _linear(rows, width, config.intermediate_size)
        + _linear(queries, 2 * width, width)  # query positions
        + _linear(queries, width, width)
        + 2 * queries * side * (_linear(1, 2, width) + _linear(1, width, heads))  # box bias, rows and columns
        + 2 * _linear(queries, width, width)  # box refinement
    )
    return float(config.num_layers * layer)


def _mask_decoder(config: Any, side: int, *, num_levels: int) -> float:
    width, queries = config.mask_decoder_config.hidden_size, config.detr_decoder_config.num_queries
    total = _cross_attention(side * side, _TEXT_LENGTH, width)
    for _ in range(num_levels - 1):
        side *= 2
        total += _linear(side * side, 9 * width, width)
    pixels = side * side
    return total + _linear(pixels, width, width) + _linear(queries, width, pixels) + 3 * _linear(queries, width, width)
