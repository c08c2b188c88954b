"""A decoder layer's new boxes and their sine encoding in one small kernel instead of twenty."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _refine(
    delta_ptr, boxes_ptr, factors_ptr, refined_ptr, encoded_ptr,
    EPS: tl.constexpr, NUM_QUERIES: tl.constexpr, BOXES_STRIDE: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    pair, query = row // NUM_QUERIES, row % NUM_QUERIES
    axes = tl.arange(0, 4)
    box = tl.load(boxes_ptr + pair * BOXES_STRIDE + query * 4 + axes)
    box = tl.minimum(tl.maximum(box, 0.0), 1.0)
    logit = tl.log(tl.maximum(box, EPS) / tl.maximum(1.0 - box, EPS))
    refined = tl.sigmoid(tl.load(delta_ptr + row * 4 + axes) + logit)
    tl.store(refined_ptr + row * 4 + axes, refined)
    features = tl.arange(0, BLOCK)
    factors = tl.load(factors_ptr + features, mask=features < FEATURES, other=0.0)
    place = tl.where(axes < 2, 1 - axes, axes)  # y before x
    angles = refined[:, None] * factors[None, :]
    waves = tl.where((features % 2 == 0)[None, :], tl.sin(angles), tl.cos(angles))
    at = (row.to(tl.int64) * 4 + place)[:, None] * FEATURES + features[None, :]
    tl.store(encoded_ptr + at, waves.to(encoded_ptr.dtype.element_ty), mask=(features < FEATURES)[None, :])


def refine_boxes(
    delta: torch.Tensor, boxes: torch.Tensor, factors: torch.Tensor, eps: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`sam3lt_ray.engine.ops.box_refinement.refine_boxes`."""
    num_pairs, num_queries, _ = delta.shape
    features = len(factors)
    refined = torch.empty_like(delta)
    encoded = torch.empty((num_pairs, num_queries, 4 * features), dtype=dtype, device=delta.device)
    stride = 0 if boxes.shape[0] == 1 else 4 * num_queries
    _refine[(num_pairs * num_queries,)](
        delta, boxes, factors, refined, encoded, eps, num_queries, stride, features,
        triton.next_power_of_2(features), num_warps=1,
    )  # fmt: skip
    return refined, encoded
