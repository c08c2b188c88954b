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
from sam3lt_ray.engine.ops.normalization import LayerNorm


@dataclass(frozen=True, slots=True)
class Affine:
    """y = weight x + bias."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        return functional.linear(x, self.weight, self.bias)

    def relu(self, x: torch.Tensor) -> torch.Tensor:
        """The same with ReLU behind it."""
        if x.is_cuda and self.bias is not None:  # cuBLAS has ReLU as an epilogue
            rows = torch._addmm_activation(self.bias, x.flatten(0, -2), self.weight.t())
            return torch.unflatten(rows, 0, x.shape[:-1])
        return functional.relu_(self(x))


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Two products with an activation between; ``activation`` None is ReLU, done with the first product."""

    first: Affine
    second: Affine
    activation: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C] to [..., C]."""
        if self.activation is not None:
            return self.second(self.activation(self.first(x)))
        return self.second(self.first.relu(x))


@dataclass(frozen=True, slots=True)
class Perceptron:
    """Products with ReLU between them: the small heads."""

    layers: tuple[Affine, ...]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        for layer in self.layers[:-1]:
            x = layer.relu(x)
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


def take_out_projection(attention: Any, placement: Placement) -> Affine:
    """An attention's output projection, with the value's bias (attention weights sum to one) taken through it."""
    weight = place(attention.o_proj.weight, placement, torch.float32)
    bias = place(attention.o_proj.bias, placement, torch.float32)
    value_bias = place(attention.v_proj.bias, placement, torch.float32)
    return Affine(place(weight, placement), place(bias + weight @ value_bias, placement))


def take_feed_forward(module: Any, placement: Placement) -> FeedForward:
    """The weights of transformers' two-layer MLP."""
    activation = module.activation_fn
    is_relu = isinstance(activation, torch.nn.ReLU)
    return FeedForward(
        take_affine(module.fc1, placement), take_affine(module.fc2, placement), None if is_relu else activation
    )


def take_perceptron(module: Any, placement: Placement, dtype: torch.dtype = torch.float32) -> Perceptron:
    """The weights of transformers' decoder MLP (two or three layers), in float32 unless another dtype is given."""
    layers = (module.layer1, module.layer2, module.layer3)
    return Perceptron(tuple(take_affine(layer, placement, dtype) for layer in layers if layer is not None))


def place(tensor: torch.Tensor, placement: Placement, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A detached tensor on the device, in the placement's dtype unless another is given."""
    return tensor.detach().to(placement.device, placement.dtype if dtype is None else dtype)


def channels_last(weight: torch.Tensor) -> torch.Tensor:
    """A convolution's weight [O, I, h, w] in the order that image tokens come in; cuDNN is twice as fast with it."""
    return weight.contiguous(memory_format=torch.channels_last)
