"""The training loss of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from sam3lt_ray.demo.training.auxiliary import DenseHeads
from sam3lt_ray.demo.training.batches import Batch
from sam3lt_ray.demo.training.forward import (
    DecoderOutput,
    decode_masks,
    decode_pairs,
    encode_images,
    encode_pairs,
    encode_text,
)
from sam3lt_ray.demo.training.matching import generalised_iou, match_queries
from sam3lt_ray.demo.training.regions import region

WEIGHTS: Final[dict[str, float]] = {
    "class": 2.0,
    "presence": 2.0,
    "box": 5.0,
    "giou": 2.0,
    "mask": 1.0,
    "dice": 2.0,
    "semantic": 1.0,
    "tokens": 1.0,
    "grounding": 1.0,
}


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """The weighted sum to minimise, and detached scalars for the log."""

    total: torch.Tensor
    terms: dict[str, torch.Tensor]


def batch_loss(
    model: Sam3LiteTextModel, heads: DenseHeads, batch: Batch, input_ids: torch.Tensor, mask: torch.Tensor, present: int
) -> BatchLoss:
    """Computes the loss of a batch whose first `present` prompts per image are present and the rest absent.

    As in SAM3, queries are scored given that the prompt is present: absent pairs train the presence token alone (and
    the dense head), so boxes, classes and masks are computed for the present pairs only.
    """
    text = encode_text(model, input_ids, mask)
    image = encode_images(model, batch.pixel_values)
    grid = image.maps[-1].shape[-1]
    cells = functional.avg_pool2d(batch.coverage, batch.coverage.shape[-1] // grid).flatten(2)
    encoded = encode_pairs(model, image, text, batch.phrase_ids)
    decoded = decode_pairs(model, encoded, image, text, batch.phrase_ids.flatten())

    wanted_cells = torch.einsum("bpk,bkn->bpn", batch.wanted.float(), cells).clamp(max=1.0).flatten(0, 1)
    is_present = (torch.arange(batch.phrase_ids.shape[1], device=encoded.device) < present).float()
    presence_target = is_present.repeat(len(batch.phrase_ids)).expand(decoded.presence_logits.shape)
    terms = {
        "tokens": heads.token_loss(image.maps[-1].flatten(2).transpose(1, 2), cells, batch.classes),
        "grounding": heads.grounding_loss(encoded, wanted_cells),
        "presence": functional.binary_cross_entropy_with_logits(decoded.presence_logits, presence_target),
    }

    found = _present_pairs(decoded, batch.phrase_ids.shape[1], present)
    wanted = batch.wanted[:, :present].flatten(0, 1)
    targets = batch.boxes_cxcywh.repeat_interleave(present, dim=0)
    layered = (targets.expand(len(found.logits), -1, -1, -1), wanted.expand(len(found.logits), -1, -1))
    assigned = match_queries(found.logits, found.boxes_cxcywh, *layered)
    terms |= _query_terms(found, assigned, *layered)

    tokens_of_present = encoded.unflatten(0, batch.phrase_ids.shape)[:, :present].flatten(0, 1)
    index = assigned[-1][:, :, None].expand(-1, -1, found.queries.shape[-1])
    mask_logits, semantic_logits = decode_masks(
        model,
        tokens_of_present,
        tuple(level.repeat_interleave(present, dim=0) for level in image.maps),
        found.queries[-1].gather(1, index),
        text,
        batch.phrase_ids[:, :present].flatten(),
    )
    coverage = batch.coverage.repeat_interleave(present, dim=0)
    terms |= _mask_terms(mask_logits.float(), semantic_logits.float(), coverage, wanted)

    total = torch.stack([WEIGHTS[name] * terms[name] for name in WEIGHTS]).sum()
    logged = {name: term.detach() for name, term in terms.items()}
    said_present = decoded.presence_logits[-1] > 0
    logged["presence_accuracy"] = (said_present == (presence_target[-1] > 0.5)).float().mean()
    return BatchLoss(total, logged)


def _present_pairs(decoded: DecoderOutput, num_prompts: int, present: int) -> DecoderOutput:
    def keep(values: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = values.unflatten(1, (-1, num_prompts))[:, :, :present].flatten(1, 2)
        return kept

    return DecoderOutput(
        keep(decoded.queries), keep(decoded.boxes_cxcywh), keep(decoded.logits), keep(decoded.presence_logits)
    )


def _query_terms(
    found: DecoderOutput, assigned: torch.Tensor, targets: torch.Tensor, wanted: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Class and box losses of every decoder layer, per wanted object."""
    num_wanted = wanted.sum().clamp(min=1)
    boxes = found.boxes_cxcywh.gather(2, assigned[..., None].expand(-1, -1, -1, 4))
    iou, giou = generalised_iou(boxes, targets)
    distance = (boxes - targets).abs().sum(-1)
    # A matched query's target score grows with its box's quality, so that better masks rank higher.
    quality = torch.where(wanted, 0.5 + 0.5 * iou.detach(), 0.0)
    rows = torch.arange(found.logits.shape[-1], device=assigned.device)
    target_score = (quality[..., None] * (rows == assigned[..., None])).amax(dim=-2)
    matched = target_score > 0
    # The rest are weighed by their own score, or 22 easy queries would drown the two that matter.
    weight = torch.where(matched, 1.0, found.logits.detach().sigmoid())
    entropy = functional.binary_cross_entropy_with_logits(found.logits, target_score, reduction="none")
    return {
        "class": (weight * entropy).sum() / num_wanted,
        "box": torch.where(wanted, distance, 0.0).sum() / num_wanted,
        "giou": torch.where(wanted, 1.0 - giou, 0.0).sum() / num_wanted,
    }


@region
def _mask_terms(
    mask_logits: torch.Tensor, semantic_logits: torch.Tensor, coverage: torch.Tensor, wanted: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Losses of the matched queries' masks, per wanted object, and of the semantic map, per pair.

    Targets are shares of covered area: the product stretches mask probabilities to the image and cuts them at one half,
    so an edge inside a cell is found again if the probability there says where it runs.
    """
    num_wanted = wanted.sum().clamp(min=1)
    area = coverage.sum(dim=(-2, -1))
    entropy = functional.binary_cross_entropy_with_logits(mask_logits, coverage, reduction="none").sum(dim=(-2, -1))
    shown = mask_logits.sigmoid()
    dice = 1.0 - (2.0 * (shown * coverage).sum(dim=(-2, -1)) + 1.0) / (shown.sum(dim=(-2, -1)) + area + 1.0)
    union = (coverage * wanted[:, :, None, None]).sum(dim=1).clamp(max=1.0)
    cut, whole = shown > 0.5, coverage > 0.5
    iou = (cut & whole).sum(dim=(-2, -1)) / (cut | whole).sum(dim=(-2, -1)).clamp(min=1)
    return {
        # Divided by the object's area, not the image's: a small object's edge counts as much as a large one's.
        "mask": torch.where(wanted, entropy / (area + 20.0), 0.0).sum() / num_wanted,
        "dice": torch.where(wanted, dice, 0.0).sum() / num_wanted,
        "semantic": 4.0 * functional.binary_cross_entropy_with_logits(semantic_logits, union),
        "mask_iou": torch.where(wanted, iou, 0.0).sum() / num_wanted,
    }
