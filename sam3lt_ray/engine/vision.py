"""The vision encoder: once per image, and its fine feature maps only where masks are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.devices import Placement
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


class VisionEncoder:
    """transformers' vision encoder without the level that nothing reads.

    Attributes:
        grid_hw: Rows and columns of image tokens.
        positions: Position encoding of the image tokens, float32 [N, C].

    Args:
        module: The model's ``vision_encoder``; its parameters are moved and cast in place.
        checkpoint: For image size and normalisation.
        placement: Where to compute.

    Raises:
        CheckpointError: A pyramid other than SAM3's (4x, 2x, 1x and one unused level).
    """

    def __init__(self, module: Any, checkpoint: Checkpoint, placement: Placement) -> None:
        levels = list(module.neck.fpn_layers)[:-1]
        scales = [layer.scale_factor for layer in levels]
        if scales != [2.0 ** (len(levels) - 1 - level) for level in range(len(levels))]:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} has feature levels {scales}; expected each twice as fine as the next, "
                "down to 1."
            )
        # Parameters only: the rotary embedding's buffers stay float32, bf16 cannot tell its positions apart.
        for parameter in module.parameters():
            parameter.data = parameter.data.to(placement.device, placement.dtype)
        for buffer in module.buffers():
            buffer.data = buffer.data.to(placement.device)
        self._backbone: Any = module.backbone
        self._fine_levels = levels[:-1]
        self._coarse_level = levels[-1]
        self._placement = placement
        patch_size = module.config.backbone_config.patch_size
        side = checkpoint.image_size // patch_size
        self.grid_hw = (side, side)
        encoding = module.neck.position_encoding(
            (1, module.config.fpn_hidden_size, *self.grid_hw), placement.device, torch.float32
        )
        self.positions: torch.Tensor = encoding.flatten(2)[0].t().contiguous()
        levels_255 = 255 * torch.tensor([checkpoint.image_mean, checkpoint.image_std], device=placement.device)
        self._mean, self._std = levels_255[0].view(1, 3, 1, 1), levels_255[1].view(1, 3, 1, 1)

    def encode(self, pixels_bhwc: torch.Tensor) -> ImageFeatures:
        """Encodes uint8 [B, S, S, 3] images that are already on the device."""
        values = (pixels_bhwc.permute(0, 3, 1, 2).float() - self._mean) / self._std
        states = self._backbone(values.to(self._placement.dtype)).last_hidden_state
        backbone = states.unflatten(1, self.grid_hw).permute(0, 3, 1, 2)
        tokens = self._coarse_level(backbone).flatten(2).transpose(1, 2).contiguous()
        return ImageFeatures(tokens, backbone)

    def fine_features(self, backbone: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of the finer levels, coarse to fine (2x, 4x), each [B, C, height, width]."""
        return [level(backbone) for level in reversed(self._fine_levels)]
