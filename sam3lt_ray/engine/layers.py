"""The few building blocks of the DETR part, as functions over plain weights.

transformers' modules hold the weights; these functions hold the arithmetic. They differ from the modules in what is
computed once instead of again for every prompt, never in the result beyond rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sam3lt_ray.engine.devices import Placement


@dataclass(frozen=True, slots=True)
class Affine:
    """y = weight x + bias."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation, always computed in float32."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises the last dimension; keeps the dtype."""
        return self.in_float32(x).to(x.dtype)

    def in_float32(self, x: torch.Tensor) -> torch.Tensor:
        """The same, not rounded back to the dtype of ``x``."""
        return functional.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Two products with an activation between; ``activation`` None is ReLU, done in place."""

    first: Affine
    second: Affine
    activation: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C] to [..., C]."""
        hidden = self.first(x)
        hidden = functional.relu_(hidden) if self.activation is None else self.activation(hidden)
        return self.second(hidden)


@dataclass(frozen=True, slots=True)
class Perceptron:
    """Products with ReLU between them: the small heads, in float32."""

    layers: tuple[Affine, ...]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        for layer in self.layers[:-1]:
            x = functional.relu_(layer(x))
        return self.layers[-1](x)


def take_affine(module: Any, placement: Placement, dtype: torch.dtype | None = None) -> Affine:
    """The weights of an nn.Linear, in the placement's dtype unless another is given."""
    bias = None if module.bias is None else place(module.bias, placement, dtype)
    return Affine(place(module.weight, placement, dtype), bias)


def take_norm(module: Any, placement: Placement) -> LayerNorm:
    """The weights of an nn.LayerNorm, in float32."""
    return LayerNorm(
        place(module.weight, placement, torch.float32), place(module.bias, placement, torch.float32), module.eps
    )


def take_feed_forward(module: Any, placement: Placement) -> FeedForward:
    """The weights of transformers' two-layer MLP."""
    activation = module.activation_fn
    is_relu = isinstance(activation, torch.nn.ReLU)
    return FeedForward(
        take_affine(module.fc1, placement), take_affine(module.fc2, placement), None if is_relu else activation
    )


def take_perceptron(module: Any, placement: Placement) -> Perceptron:
    """The weights of transformers' decoder MLP (two or three layers), in float32."""
    layers = (module.layer1, module.layer2, module.layer3)
    return Perceptron(tuple(take_affine(layer, placement, torch.float32) for layer in layers if layer is not None))


def place(tensor: torch.Tensor, placement: Placement, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A detached tensor on the device, in the placement's dtype unless another is given."""
    return tensor.detach().to(placement.device, placement.dtype if dtype is None else dtype)


def split_heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """[batch, length, C] as [batch, heads, length, C / heads]; a view."""
    return torch.unflatten(x, -1, (num_heads, -1)).transpose(-3, -2)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Multi-head attention over [batch, length, C]; ``bias`` is added to the logits, [batch, heads, queries, keys]."""
    mixed = functional.scaled_dot_product_attention(
        split_heads(query, num_heads), split_heads(key, num_heads), split_heads(value, num_heads), attn_mask=bias
    )
    return mixed.transpose(-3, -2).flatten(-2)
