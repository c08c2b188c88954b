from __future__ import annotations

import pytest
from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig

from sam3lt_ray.benchmark.flops import model_flops

# Counted by hand for the published size.
PUBLISHED_GFLOP = {"vision": 5390, "encoder": 256, "decoder": 19, "mask_decoder": 143}


def test_the_published_size() -> None:
    found = model_flops(Sam3LiteTextConfig()).to_json()
    for part, expected in PUBLISHED_GFLOP.items():
        assert found[part] == pytest.approx(expected, rel=0.08 if part == "decoder" else 0.01)


def test_an_image_needs_masks_only_where_there_are_instances() -> None:
    flops = model_flops(Sam3LiteTextConfig())
    absent = flops.per_image(80, 0)
    assert absent == flops.vision + 80 * (flops.encoder + flops.decoder)
    assert flops.per_image(80, 3) == pytest.approx(absent + flops.fine_levels + 3 * flops.mask_decoder)
