"""The vision encoder: once per image, and its fine feature maps only where masks are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import Affine, place, take_affine, take_norm
from sam3lt_ray.engine.ops.normalization import LayerNorm, add_norm
from sam3lt_ray.engine.ops.rotary import rotate_
from sam3lt_ray.engine.ops.token_attention import BASE_2, attend_tokens
from sam3lt_ray.engine.patches import PatchEmbedding
from sam3lt_ray.engine.pyramid import take_level
from sam3lt_ray.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Encoded images.

    Attributes:
        tokens: What prompts are grounded in, [B, N, C]; N = grid height x grid width, row by row.
        backbone: Features of the vision transformer before the pyramid, [B, width, grid height, grid width].
    """

    tokens: torch.Tensor
    backbone: torch.Tensor


@dataclass(frozen=True, slots=True)
class VisionLayer:
    """One transformer layer on tokens that lie window by window.

    Attributes:
        packed: Query, key and value in one, C to 3 C; the queries' scale is part of it.
        cosine, sine: Rotary positions, float32 [period, C / heads / 2]; the period is also the length of the
            sequences that attend to each other: one window, or the whole image.
    """

    norm_before_attention: LayerNorm
    packed: Affine
    cosine: torch.Tensor
    sine: torch.Tensor
    out: Affine
    num_heads: int
    norm_before_mlp: LayerNorm
    first: Affine
    activation: Any
    second: Affine

    def attention(self, normed: torch.Tensor) -> torch.Tensor:
        """[B, N, C] to [B, N, C]."""
        packed = self.packed(normed.flatten(0, 1))
        rotate_(packed, self.cosine, self.sine)
        query, key, value = torch.unflatten(packed, 0, (-1, self.cosine.shape[0])).chunk(3, dim=-1)
        return self.out(attend_tokens(query, key, value, self.num_heads)).view_as(normed)

    def mlp(self, normed: torch.Tensor) -> torch.Tensor:
        """[B, N, C] to [B, N, C]."""
        return self.second(self.activation(self.first(normed)))


class VisionEncoder:
    """transformers' vision encoder without the level that nothing reads.

    All layers work on tokens in the order of the attention windows. Whole-image attention does not care in which order
    tokens come, so they are put in order once and taken out of it once, instead of in every layer.

    Attributes:
        grid_hw: Rows and columns of image tokens.
        positions: Position encoding of the image tokens, float32 [N, C].

    Args:
        module: The model's ``vision_encoder``; its parameters are moved and cast in place.
        checkpoint: For image size and normalisation.
        placement: Where to compute.

    Raises:
        CheckpointError: A pyramid other than SAM3's (4x, 2x, 1x and one unused level), or windows that do not tile
            the image.
    """

    def __init__(self, module: Any, checkpoint: Checkpoint, placement: Placement) -> None:
        levels = list(module.neck.fpn_layers)[:-1]
        scales = [layer.scale_factor for layer in levels]
        if scales != [2.0 ** (len(levels) - 1 - level) for level in range(len(levels))]:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} has feature levels {scales}; expected each twice as fine as the next, "
                "down to 1."
            )
        backbone = module.backbone
        config = module.config.backbone_config
        side = checkpoint.image_size // config.patch_size
        if side % config.window_size:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} attends in windows of {config.window_size} patches, which do not tile "
                f"its {side} x {side} patches; only image sizes that they tile are supported."
            )
        self.grid_hw = (side, side)
        self._order = _window_order(side, config.window_size).to(placement.device)
        self._natural_order = self._order.argsort()
        self._layers = tuple(_take_layer(layer, self._order, placement) for layer in backbone.layers)
        self._first_norm = take_norm(backbone.layer_norm, placement)
        self._patches = PatchEmbedding(backbone.embeddings, checkpoint, self._order, placement)
        self._levels = tuple(take_level(level, placement) for level in levels)
        encoding = module.neck.position_encoding(
            (1, module.config.fpn_hidden_size, *self.grid_hw), placement.device, torch.float32
        )
        self.positions: torch.Tensor = encoding.flatten(2)[0].t().contiguous()

    def encode(self, pixels_bhwc: torch.Tensor) -> ImageFeatures:
        """Encodes uint8 [B, S, S, 3] images that are already on the device."""
        x, delta = self._first_norm(self._patches(pixels_bhwc)), None
        for layer in self._layers:
            x, normed = add_norm(x, delta, layer.norm_before_attention)
            x, normed = add_norm(x, layer.attention(normed), layer.norm_before_mlp)
            delta = layer.mlp(normed)
        states = x if delta is None else x + delta
        backbone = states[:, self._natural_order].unflatten(1, self.grid_hw).permute(0, 3, 1, 2)
        tokens = self._levels[-1](backbone).flatten(2).transpose(1, 2).contiguous()
        return ImageFeatures(tokens, backbone)

    def fine_features(self, backbone: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of the finer levels, coarse to fine (2x, 4x), each [B, C, height, width]."""
        return [level(backbone) for level in reversed(self._levels[:-1])]


def _window_order(side: int, window: int) -> torch.Tensor:
    """Which token of a side x side grid, counted row by row, stands where; int64 [side * side]."""
    grid = torch.arange(side * side).view(side // window, window, side // window, window)
    return grid.transpose(1, 2).flatten()


def _take_layer(module: Any, order: torch.Tensor, placement: Placement) -> VisionLayer:
    attention = module.attention
    scale = attention.scaling * BASE_2
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    weights = [place(part.weight, placement, torch.float32) for part in parts]
    biases = [place(part.bias, placement, torch.float32) for part in parts]
    weights[0], biases[0] = weights[0] * scale, biases[0] * scale
    module.rotary_emb.to(placement.device)  # float32: bf16 cannot tell its positions apart
    angles = module.rotary_emb(weights[0], module.position_ids.to(placement.device))
    cosine, sine = (part[0, :, ::2].contiguous() for part in angles)
    if module.window_size == 0:
        cosine, sine = cosine[order], sine[order]
    return VisionLayer(
        norm_before_attention=take_norm(module.layer_norm1, placement),
        packed=Affine(place(torch.cat(weights), placement), place(torch.cat(biases), placement)),
        cosine=cosine,
        sine=sine,
        out=take_affine(attention.o_proj, placement),
        num_heads=attention.num_attention_heads,
        norm_before_mlp=take_norm(module.layer_norm2, placement),
        first=take_affine(module.mlp.fc1, placement),
        activation=module.mlp.activation_fn,
        second=take_affine(module.mlp.fc2, placement),
    )
