from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sam3lt_ray.benchmark.answers import SCORE, ForcedAnswers
from sam3lt_ray.benchmark.post_processing import post_process_instance_segmentation
from sam3lt_ray.benchmark.workloads import INSTANCES, Workload, present_prompts

WORKLOAD = Workload(10, 3)
QUERIES = 24


@pytest.fixture
def answers() -> ForcedAnswers:
    return ForcedAnswers(WORKLOAD, QUERIES, torch.device("cpu"))


def test_scores_say_the_rule(answers: ForcedAnswers) -> None:
    assert answers.present.nonzero()[:, 0].tolist() == present_prompts(10, 3)
    assert (answers.scores > 0.2).sum(dim=1).tolist() == [INSTANCES * bool(there) for there in answers.present]


def test_transformers_post_processing_finds_what_is_forced(answers: ForcedAnswers) -> None:
    prompts = slice(4, 12)  # two rows more than there are prompts: padding
    outputs = SimpleNamespace(
        pred_logits=answers.logits(torch.randn(8, QUERIES), prompts),
        presence_logits=answers.presence_logits(torch.randn(8, 1)),
        pred_boxes=torch.rand(8, QUERIES, 4),
        pred_masks=answers.put_masks(torch.randn(8, QUERIES, 20, 16)),
    )
    results = post_process_instance_segmentation(
        outputs, threshold=0.2, mask_threshold=0.5, target_sizes=[(75, 60)] * 8
    )
    assert [len(result["scores"]) for result in results] == [0, 0, 3, 0, 0, 3, 0, 0]
    torch.testing.assert_close(results[2]["scores"], torch.full((INSTANCES,), SCORE))
    masks = results[2]["masks"].bool()
    assert masks.flatten(1).sum(dim=1).min() > 0.03 * 75 * 60
    assert not (masks[0] & masks[1]).any()
    assert not torch.equal(masks[0], masks[2])


def test_computed_values_take_part(answers: ForcedAnswers) -> None:
    broken = torch.full((1, INSTANCES, 6, 8), torch.nan)
    assert answers.mask_logits(broken).isnan().all()
    assert answers.logits(torch.full((1, QUERIES), torch.nan), slice(0, 1)).isnan().all()


def test_too_few_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="2 queries"):
        ForcedAnswers(WORKLOAD, 2, torch.device("cpu"))
