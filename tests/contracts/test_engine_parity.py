"""The engine says what transformers says: same instances, scores, boxes and masks, for every kind of checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from sam3lt_ray.engine.checkpoint import Checkpoint, resolve_checkpoint
from tests.checkpoints import VARIANTS
from tests.engine_reference import (
    assert_same_instances,
    load_both,
    of_prompt,
    random_checkpoints,  # noqa: F401  (a fixture)
    reference,
    smooth_image,
)

SIZES_HW = ((83, 121), (61, 40), (150, 260))


@pytest.mark.parametrize("variant", [*VARIANTS, "demo"])
def test_same_answer_as_transformers(variant: str, random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    checkpoint = resolve_checkpoint("demo") if variant == "demo" else random_checkpoints[variant]
    prompts = ("red circle", "square", "blue shape") if variant == "demo" else None
    loaded = load_both(checkpoint, prompts) if prompts else load_both(checkpoint)
    count = present = 0
    for seed, size_hw in enumerate(SIZES_HW[:1] if variant == "demo" else SIZES_HW):
        pixels = smooth_image(checkpoint.image_size, seed)
        (found,) = loaded.segmenter.segment([pixels], [size_hw])
        presence, instances = reference(loaded, pixels, size_hw)
        np.testing.assert_allclose(found.presence, presence, atol=1e-4)
        for prompt in range(len(loaded.prompts)):
            assert_same_instances(of_prompt(found, prompt), instances[prompt])
            expected_saturated = len(instances[prompt]) >= 0.9 * loaded.segmenter.num_queries
            assert found.saturated[prompt] == expected_saturated
        count += len(found.detections)
        present += sum(len(some) > 0 for some in instances)
    if variant != "demo":  # the test would be worth little if everything or nothing were there
        assert count > 10
        assert 0 < present < len(SIZES_HW) * len(loaded.prompts)


def test_detections_are_ordered_by_prompt_then_score(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    loaded = load_both(random_checkpoints["l"])
    found = loaded.segmenter.segment([smooth_image(loaded.checkpoint.image_size, 0)], [(50, 70)])[0].detections
    keys = [(one.prompt, -one.score) for one in found]
    assert keys == sorted(keys)
    assert len({one.prompt for one in found}) > 1
