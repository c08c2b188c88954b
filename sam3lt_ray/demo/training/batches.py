"""From sampled records to a training batch: flips, prompts, and what each prompt should find."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sam3lt_ray.demo.palette import COLOUR_NAMES, SHAPE_NAMES
from sam3lt_ray.demo.training.phrases import PhraseTable
from sam3lt_ray.demo.training.ring import RecordTensors

_UNKNOWN_PHRASE_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class Batch:
    """B images with P prompts each, the first of them present in the image and the others absent.

    Attributes:
        pixel_values: float32 [B, 3, H, W] in -1..1.
        coverage: Masks of all objects, float32 [B, K, h, w] in 0..1.
        boxes_cxcywh: Boxes of all objects as shares of the image, float32 [B, K, 4].
        classes: Object classes, -1 where there is none, int64 [B, K].
        phrase_ids: Rows of the phrase table, int64 [B, P].
        wanted: Which objects a prompt names, bool [B, P, K].
    """

    pixel_values: torch.Tensor
    coverage: torch.Tensor
    boxes_cxcywh: torch.Tensor
    classes: torch.Tensor
    phrase_ids: torch.Tensor
    wanted: torch.Tensor


def make_batch(
    records: RecordTensors, table: PhraseTable, num_present: int, num_absent: int, generator: torch.Generator
) -> Batch:
    """Prepares records for a training step; every scene has at least three phrases that are present."""
    images, coverage, boxes = _flip(records, generator)
    phrase_ids, wanted = sample_prompts(records.classes, table, num_present, num_absent, generator)
    pixel_values = (images.permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.5
    return Batch(pixel_values.contiguous(), coverage.float() / 255.0, boxes, records.classes, phrase_ids, wanted)


def sample_prompts(
    classes: torch.Tensor, table: PhraseTable, num_present: int, num_absent: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws distinct prompts for each image: the present ones first, then absent ones.

    An absent pair of words is drawn more often if the image holds its colour or its shape ("red circle" where a red
    square and a blue circle are to be seen): those are the ones that are hard to deny.

    Args:
        classes: Object classes of each image, -1 where there is none, int64 [B, K].
        table: The phrases to draw from.
        num_present: How many present prompts per image; at most three are sure to exist.
        num_absent: How many absent prompts per image.
        generator: Source of randomness, on the device of `classes`.

    Returns:
        Rows of the table, int64 [B, P], and which objects each names, bool [B, P, K].
    """
    exists = classes >= 0
    matches = table.matches[:, classes.clamp(min=0)] & exists  # [phrases, B, K]
    matches = matches.permute(1, 0, 2)
    present = matches.any(dim=2)  # [B, phrases]
    noise = torch.rand(present.shape, generator=generator, device=classes.device).clamp_(1e-6, 1 - 1e-6)
    gumbel = -torch.log(-torch.log(noise))
    absent_weight = _absence_weights(classes, exists, table).log()
    nothing = torch.full_like(gumbel, -1e9)
    chosen_present = torch.where(present, gumbel, nothing).topk(num_present, dim=1).indices
    chosen_absent = torch.where(present, nothing, gumbel + absent_weight).topk(num_absent, dim=1).indices
    phrase_ids = torch.cat([chosen_present, chosen_absent], dim=1)
    wanted = matches.gather(1, phrase_ids[:, :, None].expand(-1, -1, classes.shape[1]))
    return phrase_ids, wanted


def _absence_weights(classes: torch.Tensor, exists: torch.Tensor, table: PhraseTable) -> torch.Tensor:
    num_colours, num_shapes = len(COLOUR_NAMES), len(SHAPE_NAMES)
    object_class = classes.clamp(min=0)
    has_colour = torch.zeros(len(classes), num_colours, device=classes.device)
    has_shape = torch.zeros(len(classes), num_shapes, device=classes.device)
    has_colour.scatter_reduce_(1, object_class // num_shapes, exists.float(), reduce="amax")
    has_shape.scatter_reduce_(1, object_class % num_shapes, exists.float(), reduce="amax")
    pairs = 1.0 + has_colour[:, :, None] + has_shape[:, None, :] + 3.0 * has_colour[:, :, None] * has_shape[:, None, :]
    weights = torch.full((len(classes), len(table.texts)), 4.0, device=classes.device)
    weights[:, : num_colours * num_shapes] = pairs.flatten(1)
    weights[:, table.num_known :] = _UNKNOWN_PHRASE_WEIGHT
    return weights


def _flip(records: RecordTensors, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mirrors each record left to right, and top to bottom, with even odds: every shape keeps its name."""
    images, coverage, boxes = records.images, records.coverage, records.boxes_cxcywh
    coins = torch.rand((2, len(images)), generator=generator, device=images.device) < 0.5
    for axis, coin in enumerate(coins):  # 0 mirrors columns, 1 mirrors rows
        chosen = coin[:, None, None, None]
        images = torch.where(chosen, images.flip(2 - axis), images)
        coverage = torch.where(chosen, coverage.flip(3 - axis), coverage)
        mirrored = boxes.clone()
        mirrored[:, :, axis] = 1.0 - boxes[:, :, axis]
        boxes = torch.where(coin[:, None, None], mirrored, boxes)
    return images, coverage, boxes
