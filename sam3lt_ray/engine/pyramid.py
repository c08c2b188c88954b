"""The feature pyramid on top of the vision transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import channels_last, place


@dataclass(frozen=True, slots=True)
class Upsampling:
    """A transposed convolution of 2 x 2 with stride 2: every pixel becomes four, each by its own matrix.

    Attributes:
        weight: [4 O, I], rows by output row, output column, channel.
        bias: [4 O].
        gelu: What follows, if anything.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    gelu: Any

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """[B, h, w, I] to [B, 2 h, 2 w, O]."""
        four = torch.unflatten(functional.linear(features, self.weight, self.bias), -1, (2, 2, -1))
        if self.gelu is not None:
            four = self.gelu(four)
        return four.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """Upsamplings with the 1 x 1 convolution behind them folded into the last one, then a 3 x 3 convolution.

    Attributes:
        upsamplings: None, one or two.
        projection: Weight [C, I] and bias of the 1 x 1 convolution where there is no upsampling to take it.
        weight, bias: Of the 3 x 3 convolution, [C, C, 3, 3] and [C].
    """

    upsamplings: tuple[Upsampling, ...]
    projection: tuple[torch.Tensor, torch.Tensor] | None
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, backbone: torch.Tensor) -> torch.Tensor:
        """[B, I, h, w], channels last, to [B, C, s h, s w]; s is 2 to the number of upsamplings."""
        features = backbone.permute(0, 2, 3, 1)
        for upsampling in self.upsamplings:
            features = upsampling(features)
        if self.projection is not None:
            features = functional.linear(features, *self.projection)
        return functional.conv2d(features.permute(0, 3, 1, 2), self.weight, self.bias, padding=1)


def take_level(module: Any, placement: Placement) -> PyramidLevel:
    """Reads the weights of transformers' pyramid level; folding is done in float32."""

    def parameters(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return place(layer.weight, placement, torch.float32), place(layer.bias, placement, torch.float32)

    scale_layers = list(module.scale_layers)
    project, project_bias = parameters(module.proj1)
    project = project.flatten(1)
    upsamplings = []
    for number, layer in enumerate(scale_layers):
        if not isinstance(layer, torch.nn.ConvTranspose2d):
            continue
        weight, bias = parameters(layer)  # [I, O, 2, 2]
        weight, bias = weight.permute(2, 3, 1, 0), bias.expand(2, 2, -1)  # [2, 2, O, I]
        activation = scale_layers[number + 1] if number + 1 < len(scale_layers) else None
        if activation is None:  # nothing stands between this and the 1 x 1 convolution
            weight, bias = project @ weight, bias @ project.t() + project_bias
        upsamplings.append(
            Upsampling(place(weight.flatten(0, 2), placement), place(bias.flatten(), placement), activation)
        )
    weight, bias = parameters(module.proj2)
    return PyramidLevel(
        upsamplings=tuple(upsamplings),
        projection=None if upsamplings else (place(project, placement), place(project_bias, placement)),
        weight=channels_last(place(weight, placement)),
        bias=place(bias, placement),
    )
