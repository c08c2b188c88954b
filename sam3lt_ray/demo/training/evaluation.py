"""Figures of a model on held-out scenes, by pycocotools, with the post-processing of transformers.

This is the trainer's own quick check. The figures that the project states are taken through the product's labeling run
and export.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.nn import functional
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from sam3lt_ray.demo.prompts import parse_phrase
from sam3lt_ray.demo.tokenizer import build_tokenizer
from sam3lt_ray.demo.training.forward import decode_masks, decode_pairs, encode_images, encode_pairs, encode_text
from sam3lt_ray.demo.training.held_out import HeldOutScene

SCORE_FLOOR: Final = 0.05
THRESHOLD: Final = 0.5
_SCENES_PER_BATCH = 32


@dataclass(slots=True)
class _Findings:
    annotations: list[dict[str, Any]] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)
    present: list[list[bool]] = field(default_factory=list)
    best_score: list[list[float]] = field(default_factory=list)
    presence: list[list[float]] = field(default_factory=list)


@torch.no_grad()
def evaluate_model(
    model: Sam3LiteTextModel, scenes: list[HeldOutScene], labels: tuple[str, ...], device: torch.device
) -> dict[str, float]:
    """Measures a model in evaluation mode.

    Returns:
        ap50, ap75 and ap: mask AP at an IoU of 0.5, of 0.75, and averaged over 0.5 to 0.95.
        presence_accuracy: share of pairs where having an instance at or above the threshold is right.
        presence_head_accuracy: share of pairs where having a presence score at or above the threshold is right.
        false_instance_share: of absent pairs, those with an instance at or above the threshold.
        missed_share: of present pairs, those without one.
        num_scenes and num_pairs: what was measured.
    """
    findings = _Findings()
    encodings = build_tokenizer().encode_batch(list(labels))
    input_ids = torch.tensor([encoding.ids for encoding in encodings], device=device)
    mask = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool, device=device)
    for start in range(0, len(scenes), _SCENES_PER_BATCH):
        _label_scenes(model, scenes[start : start + _SCENES_PER_BATCH], start, labels, input_ids, mask, findings)
    present = np.asarray(findings.present)
    found = np.asarray(findings.best_score) >= THRESHOLD
    return {
        **_average_precision(scenes, labels, findings),
        "presence_accuracy": float((found == present).mean()),
        "presence_head_accuracy": float(((np.asarray(findings.presence) >= THRESHOLD) == present).mean()),
        "false_instance_share": float((found & ~present).sum() / max(1, (~present).sum())),
        "missed_share": float((~found & present).sum() / max(1, present.sum())),
        "num_scenes": len(scenes),
        "num_pairs": int(present.size),
    }


def _label_scenes(
    model: Sam3LiteTextModel,
    scenes: list[HeldOutScene],
    first_id: int,
    labels: tuple[str, ...],
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    findings: _Findings,
) -> None:
    images = torch.from_numpy(np.stack([scene.image_hwc for scene in scenes])).to(input_ids.device)
    text = encode_text(model, input_ids, mask)
    image = encode_images(model, (images.permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.5)
    phrase_ids = torch.arange(len(labels), device=input_ids.device).expand(len(scenes), -1)
    encoded = encode_pairs(model, image, text, phrase_ids)
    decoded = decode_pairs(model, encoded, image, text, phrase_ids.flatten())
    presence = decoded.presence_logits[-1].sigmoid()
    scores = decoded.logits[-1].sigmoid() * presence[:, None]
    findings.best_score += scores.amax(dim=1).view(len(scenes), -1).tolist()
    findings.presence += presence.view(len(scenes), -1).tolist()
    kept_pairs = torch.nonzero(scores.amax(dim=1) > SCORE_FLOOR)[:, 0]
    for chunk in kept_pairs.split(128) if len(kept_pairs) else ():
        maps = tuple(level[chunk // len(labels)] for level in image.maps)
        logits, _ = decode_masks(model, encoded[chunk], maps, decoded.queries[-1][chunk], text, chunk % len(labels))
        for pair, pair_scores, masks in zip(chunk.tolist(), scores[chunk], logits.sigmoid(), strict=True):
            number, label = divmod(pair, len(labels))
            keep = pair_scores > SCORE_FLOOR
            size = (scenes[number].height, scenes[number].width)
            whole = functional.interpolate(masks[keep][None], size=size, mode="bilinear", align_corners=False)[0] > 0.5
            runs = coco_mask.encode(np.asfortranarray(whole.permute(1, 2, 0).cpu().numpy().astype(np.uint8)))
            for score, segmentation in zip(pair_scores[keep].tolist(), runs, strict=True):
                entry = {"image_id": first_id + number, "category_id": label + 1, "score": score}
                findings.detections.append({**entry, "segmentation": segmentation})
    for number, scene in enumerate(scenes):
        _add_truth(scene, first_id + number, labels, findings)


def _add_truth(scene: HeldOutScene, image_id: int, labels: tuple[str, ...], findings: _Findings) -> None:
    present = []
    for label, text in enumerate(labels):
        phrase = parse_phrase(text)
        wanted = [item for item in scene.objects if phrase is not None and phrase.matches(item.colour, item.shape)]
        present.append(bool(wanted))
        for item in wanted:
            findings.annotations.append(
                {
                    "id": len(findings.annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "segmentation": item.segmentation,
                    "area": float(coco_mask.area(item.segmentation)),
                    "bbox": [float(value) for value in coco_mask.toBbox(item.segmentation)],
                    "iscrowd": 0,
                }
            )
    findings.present.append(present)


def _average_precision(scenes: list[HeldOutScene], labels: tuple[str, ...], findings: _Findings) -> dict[str, float]:
    if not findings.detections:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    truth = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "images": [{"id": n, "height": scene.height, "width": scene.width} for n, scene in enumerate(scenes)],
            "categories": [{"id": n + 1, "name": name} for n, name in enumerate(labels)],
            "annotations": findings.annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(findings.detections), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"ap": float(evaluation.stats[0]), "ap50": float(evaluation.stats[1]), "ap75": float(evaluation.stats[2])}
