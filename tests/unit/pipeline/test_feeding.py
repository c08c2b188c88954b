from __future__ import annotations

import pytest

from sam3lt_ray.pipeline.feeding import cores_per_gpu


@pytest.mark.parametrize(("num_prompts", "cores"), [(1, 4), (10, 3), (80, 2), (1000, 2)])
def test_more_prompts_want_fewer_cores(num_prompts: int, cores: int) -> None:
    assert cores_per_gpu(num_prompts) == cores
