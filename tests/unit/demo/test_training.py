"""Training parts that decide whether the checkpoint is what it claims: forward, matching, batches, schedule, state."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from sam3lt_ray.demo.scenes import render_scene
from sam3lt_ray.demo.training import forward
from sam3lt_ray.demo.training.architecture import MASK_SIZE, new_model
from sam3lt_ray.demo.training.batches import make_batch, sample_prompts
from sam3lt_ray.demo.training.matching import generalised_iou, match_queries
from sam3lt_ray.demo.training.phrases import PhraseTable
from sam3lt_ray.demo.training.records import RECORD_LAYOUT, RecordArrays
from sam3lt_ray.demo.training.ring import RecordTensors
from sam3lt_ray.demo.training.schedule import WeightAverage, learning_rate_factor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table() -> PhraseTable:
    return PhraseTable.build(CPU)


@pytest.fixture(scope="module")
def model() -> Sam3LiteTextModel:
    return new_model(0).eval()


@pytest.fixture(scope="module")
def records() -> RecordTensors:
    arrays = RecordArrays.shared(12)
    for position in range(12):
        arrays.put(position, render_scene(3, position))
    return RecordTensors(**{name: torch.from_numpy(getattr(arrays, name)) for name in RECORD_LAYOUT})


@torch.no_grad()
def test_training_computes_what_the_model_computes(model: Sam3LiteTextModel, table: PhraseTable) -> None:
    pixel_values = torch.randn(1, 3, 240, 240, generator=torch.Generator().manual_seed(0))
    phrase_ids = torch.tensor([[3, 60, len(table.texts) - 1]])
    pairs = phrase_ids.flatten()
    text = forward.encode_text(model, table.input_ids, table.mask)
    image = forward.encode_images(model, pixel_values)
    encoded = forward.encode_pairs(model, image, text, phrase_ids)
    decoded = forward.decode_pairs(model, encoded, image, text, pairs)
    maps = tuple(level.repeat_interleave(3, dim=0) for level in image.maps)
    masks, semantic = forward.decode_masks(model, encoded, maps, decoded.queries[-1], text, pairs)
    expected = model(
        pixel_values=pixel_values.expand(3, -1, -1, -1),
        input_ids=table.input_ids[pairs],
        attention_mask=table.mask[pairs].long(),
    )
    torch.testing.assert_close(masks, expected.pred_masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(semantic, expected.semantic_seg[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoded.logits[-1], expected.pred_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(forward.xyxy(decoded.boxes_cxcywh[-1]), expected.pred_boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoded.presence_logits[-1], expected.presence_logits[:, 0], atol=1e-4, rtol=1e-4)


def test_matching_gives_each_object_its_own_query_at_nearly_the_lowest_cost() -> None:
    source = torch.Generator().manual_seed(1)
    logits = torch.randn(40, 9, generator=source)
    boxes = torch.rand(40, 9, 4, generator=source) * 0.5 + 0.2
    targets = torch.rand(40, 3, 4, generator=source) * 0.5 + 0.2
    wanted = torch.rand(40, 3, generator=source) < 0.7
    assigned = match_queries(logits, boxes, targets, wanted)
    giou = generalised_iou(boxes[:, :, None], targets[:, None])[1]
    cost = 5.0 * (boxes[:, :, None] - targets[:, None]).abs().sum(-1) - 2.0 * giou - 2.0 * logits.sigmoid()[..., None]
    greedy_total = optimal_total = 0.0
    for case in range(40):
        objects = np.flatnonzero(wanted[case].numpy())
        queries = assigned[case].numpy()[objects]
        assert len(set(queries)) == len(objects)
        costs = cost[case].numpy()
        greedy_total += costs[queries, objects].sum()
        optimal_total += min(costs[list(choice), objects].sum() for choice in permutations(range(9), len(objects)))
    assert optimal_total <= greedy_total + 1e-3
    random_total = float((cost.mean(dim=1) * wanted).sum())
    assert greedy_total - optimal_total < 0.05 * (random_total - optimal_total)


def test_generalised_iou_of_known_boxes() -> None:
    first = torch.tensor([0.5, 0.5, 0.2, 0.4])
    assert generalised_iou(first, first)[0] == pytest.approx(1.0)
    iou, giou = generalised_iou(torch.tensor([0.25, 0.5, 0.5, 1.0]), torch.tensor([0.75, 0.5, 0.5, 1.0]))
    assert (float(iou), float(giou)) == pytest.approx((0.0, 0.0))
    assert float(generalised_iou(torch.tensor([0.1, 0.5, 0.2, 1.0]), torch.tensor([0.9, 0.5, 0.2, 1.0]))[1]) < -0.5


def test_first_prompts_are_present_and_the_rest_absent(records: RecordTensors, table: PhraseTable) -> None:
    phrase_ids, wanted = sample_prompts(records.classes, table, 3, 5, torch.Generator().manual_seed(0))
    assert wanted.any(dim=2).tolist() == [[True] * 3 + [False] * 5] * 12
    assert all(len(set(row)) == 8 for row in phrase_ids.tolist())
    for row, classes, named in zip(phrase_ids, records.classes, wanted, strict=True):
        for phrase, objects in zip(row, named, strict=True):
            expected = [number >= 0 and bool(table.matches[phrase, number]) for number in classes.tolist()]
            assert objects.tolist() == expected


def test_flips_move_images_masks_and_boxes_together(records: RecordTensors, table: PhraseTable) -> None:
    batch = make_batch(records, table, 3, 5, torch.Generator().manual_seed(2))
    straight = (records.images.permute(0, 3, 1, 2).float() / 255.0 - 0.5) / 0.5
    turned = [not torch.equal(one, two) for one, two in zip(straight, batch.pixel_values, strict=True)]
    assert any(turned)
    for coverage, box, number in zip(
        batch.coverage.flatten(0, 1), batch.boxes_cxcywh.flatten(0, 1), batch.classes.flatten(), strict=True
    ):
        if number >= 0:
            rows, columns = (np.flatnonzero((coverage > 0.02).any(dim=axis).numpy()) / MASK_SIZE for axis in (1, 0))
            assert (columns[0] + columns[-1]) / 2 == pytest.approx(float(box[0]), abs=0.025)
            assert (rows[0] + rows[-1]) / 2 == pytest.approx(float(box[1]), abs=0.025)


def test_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    assert learning_rate_factor(0, 0.0, 100, 0.5) == pytest.approx(0.01)
    assert learning_rate_factor(200, 0.4, 100, 0.5) == 1.0
    assert learning_rate_factor(800, 0.75, 100, 0.5) == pytest.approx(0.5)
    assert learning_rate_factor(999, 1.0, 100, 0.5) == pytest.approx(0.0)


def test_recalibrated_batch_norms_give_the_features_of_training(model: Sam3LiteTextModel, table: PhraseTable) -> None:
    average = WeightAverage(model, decay=0.9)
    average.recalibrate(table)
    arguments = {"input_ids": table.input_ids, "attention_mask": table.mask.long()}
    with torch.no_grad():
        evaluated = average.model.get_text_features(**arguments).pooler_output
        trained = average.model.train().get_text_features(**arguments).pooler_output
    torch.testing.assert_close(evaluated[table.mask], trained[table.mask], atol=0.01, rtol=0.01)


def test_the_shipped_checkpoint_has_the_architecture_that_training_makes() -> None:
    folder = Path(forward.__file__).parents[1] / "checkpoint"
    loaded, report = Sam3LiteTextModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = {name: tensor.shape for name, tensor in new_model(0).state_dict().items()}
    assert {name: tensor.shape for name, tensor in loaded.state_dict().items()} == expected
