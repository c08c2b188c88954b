"""The mask head: only for pairs that have an instance, and only for the queries that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import Affine, LayerNorm, Perceptron, place, take_affine, take_norm
from sam3lt_ray.engine.prompt_attention import PromptAttention, fold_prompts
from sam3lt_ray.engine.text_bank import TextFeatures


@dataclass(frozen=True, slots=True)
class UpsamplingStage:
    """Convolution of (features at twice the size + an image's own finer features), then group norm and ReLU.

    A 3 x 3 convolution is linear, so the image's part is convolved once per image; and on a nearest-neighbour
    upsampling it sees only 2 x 2 different values, so the prompt's part is four 2 x 2 convolutions of the small map,
    one for each parity of row and column.

    Attributes:
        image_weight, image_bias: The convolution as trained, [C, C, 3, 3] and [C].
        phase_weights: The four kernels, [4 C, C, 2, 2], ordered by row parity, column parity, channel.
    """

    image_weight: torch.Tensor
    image_bias: torch.Tensor
    phase_weights: torch.Tensor
    num_groups: int
    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    norm_eps: float

    def image_part(self, fine: torch.Tensor) -> torch.Tensor:
        """Once per image: [B, C, 2h, 2w] to [B, C, 2h, 2w]."""
        return functional.conv2d(fine, self.image_weight, self.image_bias, padding=1)

    def __call__(self, coarse: torch.Tensor, image_part: torch.Tensor) -> torch.Tensor:
        """[n, C, h, w] and [n, C, 2h, 2w] to [n, C, 2h, 2w]; ``image_part`` is overwritten."""
        count, width, height_in, width_in = coarse.shape
        phases = torch.unflatten(functional.conv2d(coarse, self.phase_weights, padding=1), 1, (2, 2, width))
        interleaved = image_part.view(count, width, height_in, 2, width_in, 2)
        for row in (0, 1):
            for column in (0, 1):
                interleaved[:, :, :, row, :, column] += phases[
                    :, row, column, :, row : row + height_in, column : column + width_in
                ]
        normed = functional.group_norm(
            image_part.float(), self.num_groups, self.norm_weight, self.norm_bias, self.norm_eps
        )
        return functional.relu_(normed.to(coarse.dtype))


class MaskHead:
    """From encoder output to mask logits.

    Args:
        module: The model's ``mask_decoder``.
        text: The vocabulary.
        grid_hw: Rows and columns of image tokens.
        placement: Where to compute.
    """

    def __init__(self, module: Any, text: TextFeatures, grid_hw: tuple[int, int], placement: Placement) -> None:
        self._grid_hw = grid_hw
        self._norm: LayerNorm = take_norm(module.prompt_cross_attn_norm, placement)
        self._text: PromptAttention = fold_prompts(module.prompt_cross_attn, text, placement)
        decoder = module.pixel_decoder
        self._stages = tuple(
            _take_stage(conv, norm, placement) for conv, norm in zip(decoder.conv_layers, decoder.norms, strict=True)
        )
        self._embedder = _take_embedder(module, placement)

    def image_parts(self, fine_features: list[torch.Tensor]) -> list[torch.Tensor]:
        """What does not depend on the prompt, for :meth:`pixel_features`; fine features coarse to fine."""
        return [stage.image_part(fine) for stage, fine in zip(self._stages, fine_features, strict=False)]

    def pixel_features(
        self, memory: torch.Tensor, prompts: torch.Tensor, image_parts: list[torch.Tensor]
    ) -> torch.Tensor:
        """Features at a quarter of the patch size.

        Args:
            memory: Encoder output of n pairs, [n, N, C].
            prompts: Their prompts, int64 [n].
            image_parts: Of their images, one map per stage, [n, C, ...]; overwritten.

        Returns:
            [n, C, 4 h, 4 w].
        """
        attended = memory + self._text.select(prompts)(self._norm(memory))
        features = torch.unflatten(attended.transpose(1, 2), 2, self._grid_hw).contiguous()
        for stage, image_part in zip(self._stages, image_parts, strict=False):
            features = stage(features, image_part)
        return features

    def mask_logits(self, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Mask logits of some queries of one pair: [k, C] and [C, H, W] to float32 [k, H, W]."""
        embedded = self._embedder(queries)
        weights, offset = embedded[:, :-1].to(features.dtype), embedded[:, -1:]
        logits = weights @ features.flatten(1)
        return torch.unflatten(logits.float() + offset, 1, features.shape[1:])


def _take_stage(conv: Any, norm: Any, placement: Placement) -> UpsamplingStage:
    weight = place(conv.weight, placement, torch.float32)

    def halves(kernel: torch.Tensor, dim: int) -> torch.Tensor:
        """The two kernels of length 2 along ``dim``, for even and odd outputs, stacked in front."""
        before, middle, after = kernel.unbind(dim)
        even, odd = (before, middle + after), (before + middle, after)
        return torch.stack([torch.stack(even, dim), torch.stack(odd, dim)])

    phases = halves(weight, 2)  # [row parity, O, I, 2, 3]
    phases = halves(phases, 4).transpose(0, 1)  # [row parity, column parity, O, I, 2, 2]
    return UpsamplingStage(
        image_weight=place(weight, placement),
        image_bias=place(conv.bias, placement),
        phase_weights=place(phases.flatten(0, 2), placement).contiguous(),
        num_groups=norm.num_groups,
        norm_weight=place(norm.weight, placement, torch.float32),
        norm_bias=place(norm.bias, placement, torch.float32),
        norm_eps=norm.eps,
    )


def _take_embedder(module: Any, placement: Placement) -> Perceptron:
    """The mask embedder with the 1 x 1 projection of the pixels carried over to it.

    e . (W x + b) = (W^T e) . x + b . e, so its last layer gets the rows of W^T and one more for the offset.
    """
    first, second, last = (take_affine(layer, placement, torch.float32) for layer in module.mask_embedder.layers)
    projection = place(module.instance_projection.weight, placement, torch.float32).flatten(1)
    bias = place(module.instance_projection.bias, placement, torch.float32)
    carry = torch.cat([projection.t(), bias[None]])
    assert last.bias is not None  # SAM3's mask embedder has biases throughout
    return Perceptron((first, second, Affine(carry @ last.weight, carry @ last.bias)))
