"""The engine's exact shortcuts from the mask head on, each beside the same thing without it: see ``bench_tricks``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional
from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextMaskDecoder

from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.ops.upsampling import interleave
from sam3lt_ray.engine.runs import MaskEncoding
from sam3lt_ray.engine.text_bank import TextFeatures
from sam3lt_ray.masks.rle import encode_mask
from sam3lt_ray.masks.suppression import merge_prompt_instances
from sam3lt_ray.records import Instance
from tests.benchmarks.tricks_of_prompts import CPU, WORDS, Trick

SIZE_HW = (960, 1280)
KEPT, QUERIES = 3, 200


def head_tricks(side: int) -> list[Trick]:
    """On the mask decoder of the published size; ``side`` is that of the grid of image tokens, 72 there."""
    config = Sam3LiteTextConfig().mask_decoder_config
    module: Any = Sam3LiteTextMaskDecoder(config).eval()
    width = config.hidden_size
    text = TextFeatures(torch.randn(2, WORDS, width), torch.ones(2, WORDS, dtype=torch.bool))
    head = MaskHead(module, text, (side, side), CPU)
    stage, conv = head._stages[0], module.pixel_decoder.conv_layers[0]
    coarse, skip = torch.randn(6, width, side, side), torch.randn(1, width, 2 * side, 2 * side)
    none = torch.zeros_like(skip)
    images = torch.zeros(6, dtype=torch.int64)
    pixels = torch.randn(1, width, 4 * side, 4 * side)
    queries = torch.randn(1, QUERIES, width)
    kept = queries[:, :KEPT]
    projection = module.instance_projection
    carried = kept @ projection.weight.flatten(1)
    offset = (kept @ projection.bias)[..., None]

    def enlarged(maps: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(maps, scale_factor=2.0, mode="nearest")

    def product(some: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return torch.bmm(some, features.flatten(2))

    def image_part_once(pairs: int) -> Trick:
        some = coarse[:pairs]
        return Trick(
            f"masks: ... and the image's own part once ({pairs} pairs of an image)",
            lambda: interleave(stage.phases(some), stage.image_part(skip), images[:pairs], stage.norm).values,
            lambda: conv(enlarged(some) + skip),
        )

    return [
        Trick(
            f"masks: kept queries only, {KEPT} of {QUERIES} (1 pair)",
            lambda: product(kept, pixels),
            lambda: product(queries, pixels)[:, :KEPT],
        ),
        Trick(
            f"masks: projection folded into {KEPT} queries (1 pair)",
            lambda: product(carried, pixels) + offset,
            lambda: product(kept, projection(pixels)),
        ),
        Trick(
            "masks: 3 x 3 after enlarging as four 2 x 2, first stage (1 pair)",
            lambda: interleave(stage.phases(coarse[:1]), none, images[:1], stage.norm).values,
            lambda: functional.conv2d(enlarged(coarse[:1]), conv.weight, padding=1),
        ),
        *(image_part_once(pairs) for pairs in (2, 6)),
    ]


def run_length_tricks() -> list[Trick]:
    """Masks at the size of a photograph."""
    coarse = torch.from_numpy(np.random.RandomState(1).normal(-1, 3, (1, 3, 9, 9)).astype(np.float32))
    logits = functional.interpolate(coarse, (288, 288), mode="bicubic")[0]

    def ours() -> list[str]:
        return [one.rle.counts for one in MaskEncoding(logits, SIZE_HW, 0.5).wait()]

    def dense() -> list[str]:
        masks = functional.interpolate(logits.sigmoid()[None], SIZE_HW, mode="bilinear", align_corners=False)[0]
        values = (masks > 0.5).to(torch.int64).numpy()
        encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in values]
        return [one["counts"].decode() for one in encoded]

    assert ours() == dense()
    return [Trick("run lengths of 3 masks without dense int64", ours, dense)]


def overlap_trick(num_instances: int) -> Trick:
    """Two prompts of one label that found the same things: which are to go?

    The other way gets its dense masks for nothing; the engine has none at the image's size when it comes to that.
    """
    random = np.random.RandomState(num_instances)
    y, x = np.ogrid[: SIZE_HW[0], : SIZE_HW[1]]
    masks, instances = [], []
    for number in range(num_instances // 2):
        center, axes = random.uniform(0.1, 0.9, 2) * SIZE_HW, random.uniform(20, 90, 2)
        for prompt in (0, 1):  # the second one sees it a little larger
            mask = ((y - center[0]) / axes[0]) ** 2 + ((x - center[1]) / axes[1]) ** 2 < 1 + 0.1 * prompt
            top_left, bottom_right = (center - axes)[::-1], (center + axes)[::-1]
            score = 0.9 - 0.4 * prompt - number * 1e-4
            masks.append(mask)
            instances.append(Instance(1, prompt, score, (*top_left, *bottom_right), int(mask.sum()), encode_mask(mask)))
    flat = torch.from_numpy(np.stack(masks)).flatten(1).float()

    def by_product() -> torch.Tensor:
        shared = flat @ flat.t()
        areas = shared.diagonal()
        return shared / (areas[:, None] + areas[None] - shared)

    overlaps = by_product()[1::2, ::2]  # of the second prompt's masks with the first one's, which score higher
    assert len(merge_prompt_instances(instances, 0.7)) == num_instances - int((overlaps >= 0.7).any(dim=1).sum())
    return Trick(
        f"overlaps of {num_instances} masks as a matrix product",
        by_product,
        lambda: merge_prompt_instances(instances, 0.7),
        used=False,
    )
