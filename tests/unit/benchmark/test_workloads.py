from __future__ import annotations

import io

import pytest
from PIL import Image

from sam3lt_ray.benchmark.contenders import CONTENDERS, num_images
from sam3lt_ray.benchmark.documented import choose_subset
from sam3lt_ray.benchmark.photos import make_photo, size_wh
from sam3lt_ray.benchmark.workloads import (
    Workload,
    full_workloads,
    make_prompts,
    present_prompts,
    quick_workloads,
    words,
)


@pytest.mark.parametrize(("num_prompts", "num_present"), [(1, 1), (10, 3), (80, 3), (80, 0), (80, 80), (1000, 10)])
def test_the_rule_gives_exactly_so_many_present_prompts(num_prompts: int, num_present: int) -> None:
    present = present_prompts(num_prompts, num_present)
    assert len(present) == num_present
    assert set(present) <= set(range(num_prompts))


def test_present_prompts_are_spread() -> None:
    assert present_prompts(10, 3) == [3, 6, 9]
    assert present_prompts(4, 2) == [1, 3]


def test_the_usual_workloads() -> None:
    assert [(one.num_prompts, one.num_present, one.images) for one in full_workloads()] == [
        (80, 3, "one size"),
        (80, 0, "one size"),
        (80, 80, "one size"),
        (80, 3, "mix"),
        (365, 7, "one size"),
        (1, 1, "one size"),
        (10, 3, "one size"),
        (1000, 10, "one size"),
    ]
    assert full_workloads((365,)) == [Workload(365, 7)]
    assert quick_workloads() == [Workload(1, 1), Workload(20, 2)]


def test_a_workload_survives_json() -> None:
    for workload in full_workloads():
        assert Workload(**workload.to_json()) == workload


def test_prompts_differ_and_have_one_to_three_words() -> None:
    prompts = make_prompts(2000)
    assert len(set(prompts)) == 2000
    assert {len(prompt.split()) for prompt in prompts[:10]} == {1, 2, 3}
    assert {word for prompt in prompts for word in prompt.split()} <= set(words())
    assert make_prompts(20) == prompts[:20]
    with pytest.raises(ValueError, match="there are"):
        make_prompts(10_000)


@pytest.mark.parametrize(
    ("num_prompts", "num_present", "present", "absent"),
    [(10, 3, 3, 7), (80, 3, 2, 2), (80, 0, 0, 4), (80, 80, 4, 0), (20, 1, 1, 3), (20, 19, 3, 1)],
)
def test_the_subset_has_both_kinds(num_prompts: int, num_present: int, present: int, absent: int) -> None:
    there = [prompt in present_prompts(num_prompts, num_present) for prompt in range(num_prompts)]
    chosen = choose_subset(there)
    assert sum(there[prompt] for prompt in chosen) == present
    assert len(chosen) == present + absent == len(set(chosen))


def test_photos_are_the_same_every_time_and_have_their_sizes() -> None:
    assert make_photo("mix", 0, longest=64) == make_photo("mix", 0, longest=64)
    assert make_photo("mix", 0, longest=64) != make_photo("mix", 6, longest=64)
    for index in range(7):
        with Image.open(io.BytesIO(make_photo("mix", index, longest=50))) as image:
            assert image.size == size_wh("mix", index, longest=50)
    assert size_wh("one size", 5) == (1280, 960)
    assert size_wh("mix", 9) == (4000, 3000)


def test_a_mix_has_whole_rounds_of_sizes_for_everybody() -> None:
    assert all(num_images(name, Workload(80, 3, "mix"), quick=False) % 6 == 0 for name in CONTENDERS)
