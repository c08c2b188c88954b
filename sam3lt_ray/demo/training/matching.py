"""Assigning decoder queries to objects on the device, without asking the host."""

from __future__ import annotations

import torch

from sam3lt_ray.demo.training.forward import xyxy

_TAKEN = 1e6


def generalised_iou(first_cxcywh: torch.Tensor, second_cxcywh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., 2019) of boxes with broadcasting shapes [..., 4]."""
    first, second = xyxy(first_cxcywh), xyxy(second_cxcywh)
    overlap = (torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])).clamp(0)
    hull = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    # Written out: the gradient of prod() asks the host for the number of zeros.
    intersection = overlap[..., 0] * overlap[..., 1]
    areas = first_cxcywh[..., 2] * first_cxcywh[..., 3], second_cxcywh[..., 2] * second_cxcywh[..., 3]
    union = areas[0] + areas[1] - intersection
    iou = intersection / union.clamp(min=1e-6)
    hull_area = (hull[..., 0] * hull[..., 1]).clamp(min=1e-6)
    return iou, iou - (hull_area - union) / hull_area


@torch.no_grad()
def match_queries(
    logits: torch.Tensor, boxes_cxcywh: torch.Tensor, targets_cxcywh: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Gives each wanted object a query of its own, cheapest pair first.

    The greedy choice differs from the optimal (Hungarian) one only where objects compete for a query, and it runs
    inside the compiled training step: no copy to the host, no waiting.

    Args:
        logits: Query scores, [..., Q].
        boxes_cxcywh: Query boxes, [..., Q, 4].
        targets_cxcywh: Object boxes, [..., K, 4].
        wanted: Which objects are to be found, bool [..., K].

    Returns:
        The query of each object, int64 [..., K]; meaningless where an object is not wanted.
    """
    pairs = (boxes_cxcywh[..., :, None, :], targets_cxcywh[..., None, :, :])
    distance = (pairs[0] - pairs[1]).abs().sum(-1)
    cost = 5.0 * distance - 2.0 * generalised_iou(*pairs)[1] - 2.0 * logits.sigmoid()[..., None]
    cost = torch.where(wanted[..., None, :], cost, _TAKEN)  # [..., Q, K]
    num_queries, num_objects = cost.shape[-2:]
    rows = torch.arange(num_queries, device=cost.device)
    columns = torch.arange(num_objects, device=cost.device)
    assigned = torch.zeros(wanted.shape, dtype=torch.int64, device=cost.device)
    for _ in range(num_objects):
        best = cost.flatten(-2).argmin(dim=-1)
        query, target = best // num_objects, best % num_objects
        # Once the wanted objects have their queries, every cost reads as taken and nothing may change any more.
        open_pair = cost.flatten(-2).amin(dim=-1) < _TAKEN / 2
        here = (columns == target[..., None]) & open_pair[..., None]
        assigned = torch.where(here, query[..., None], assigned)
        used = (rows == query[..., None])[..., :, None] | (columns == target[..., None])[..., None, :]
        cost = torch.where(used & open_pair[..., None, None], _TAKEN, cost)
    return assigned
