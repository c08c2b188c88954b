"""The mask head: only for pairs that have an instance, and only for the queries that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.layers import Affine, Perceptron, channels_last, place, take_affine, take_norm
from sam3lt_ray.engine.ops.normalization import LayerNorm
from sam3lt_ray.engine.ops.upsampling import GroupNorm, interleave, mask_logits, norm_relu
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
    norm: GroupNorm

    def image_part(self, fine: torch.Tensor) -> torch.Tensor:
        """Once per image: [B, C, 2h, 2w] to [B, C, 2h, 2w]."""
        return functional.conv2d(fine, self.image_weight, self.image_bias, padding=1)

    def phases(self, coarse: torch.Tensor) -> torch.Tensor:
        """[n, C, h, w] to [n, 4 C, h + 1, w + 1]."""
        return functional.conv2d(coarse, self.phase_weights, padding=1)


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

    def image_parts(self, fine_features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What does not depend on the prompt, for :meth:`logits`; fine features coarse to fine."""
        return [stage.image_part(fine) for stage, fine in zip(self._stages, fine_features, strict=False)]

    def logits(
        self,
        memory: torch.Tensor,
        prompts: torch.Tensor,
        image_parts: Sequence[torch.Tensor],
        images: torch.Tensor,
        queries: torch.Tensor,
    ) -> torch.Tensor:
        """Mask logits at a quarter of the patch size, of k queries for each of n pairs.

        Args:
            memory: Encoder output of the pairs, [n, N, C].
            prompts: Their prompts, int [n].
            image_parts: Of some images, one map per stage, [B, C, ...]; left unchanged.
            images: Which of them belongs to which pair, int [n].
            queries: Decoder queries, float32 [n, k, C].

        Returns:
            float32 [n, k, 4 h, 4 w].
        """
        attended = memory + self._text.select(prompts)(self._norm(memory))
        features = torch.unflatten(attended, 1, self._grid_hw).permute(0, 3, 1, 2)
        stages = [*zip(self._stages, image_parts, strict=False)]
        for number, (stage, image_part) in enumerate(stages):
            summed = interleave(stage.phases(features), image_part, images, stage.norm)
            if number + 1 < len(stages):
                features = norm_relu(summed, stage.norm)
        embedded = self._embedder(queries)
        return mask_logits(summed, stage.norm, embedded[..., :-1].to(memory.dtype), embedded[..., -1])


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
        image_weight=channels_last(place(weight, placement)),
        image_bias=place(conv.bias, placement),
        phase_weights=channels_last(place(phases.flatten(0, 2), placement)),
        norm=GroupNorm(
            norm.num_groups,
            place(norm.weight, placement, torch.float32),
            place(norm.bias, placement, torch.float32),
            norm.eps,
        ),
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
