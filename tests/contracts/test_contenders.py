from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sam3lt_ray.benchmark.agreement import compare
from sam3lt_ray.benchmark.child import make_contender
from sam3lt_ray.benchmark.contenders import CONTENDERS, ContenderSettings, image_path
from sam3lt_ray.benchmark.measuring import measure_workloads
from sam3lt_ray.benchmark.part_clock import PARTS, PartClock
from sam3lt_ray.benchmark.photos import make_photo
from sam3lt_ray.benchmark.random_checkpoint import make_random_checkpoint
from sam3lt_ray.benchmark.workloads import Workload
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.tokenizer import PromptTokenizer

# Tiny models: handing their work between threads costs more than it saves, much more on a busy machine.
torch.set_num_threads(1)

WORKLOADS = [Workload(36, 2), Workload(36, 36), Workload(3, 1, "mix")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for workload in WORKLOADS:
        for index in range(2):
            image_path(folder, workload, index).write_bytes(make_photo(workload.images, index, longest=90))
    return folder


def settings(checkpoint: Path, **changes: Any) -> ContenderSettings:
    values = {"device": "cpu", "precision": "fp32", "compile": False, "decode_threads": 2, **changes}
    return ContenderSettings(checkpoint=str(checkpoint), **values)


def test_all_contenders_agree_on_every_workload(tiny: Path, images: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in CONTENDERS:
        done = measure_workloads(
            make_contender(name, settings(tiny)),
            name,
            [(workload, 2) for workload in WORKLOADS],
            image_folder=images,
            budget_s=3.0,
            write=lambda so_far, name=name: rows.__setitem__(name, list(so_far)),  # type: ignore[misc]
            say=lambda _: None,
        )
        assert done, rows[name]
    for number, workload in enumerate(WORKLOADS):
        of_all = {name: rows[name][number] for name in CONTENDERS}
        found = {name: row["found"] for name, row in of_all.items() if row["status"] == "measured"}
        asked = {"documented": of_all["documented"].get("facts", {}).get("asked_prompts", [])}
        agreement = compare(found, workload, asked)
        assert agreement["ok"], agreement
        assert len(found) == 3 or number > 0
    assert rows["compiled"][0]["parts_ms_per_image"]["mask head on absent prompts"] == 0
    assert all(rows["sam3lt"][0]["parts_ms_per_image"][part] > 0 for part in PARTS)


def test_static_shapes_pay_for_absent_prompts(tiny: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    contender = make_contender("compiled", settings(tiny, compile=True, precision="bf16"))
    contender.prepare(WORKLOADS[0])
    data = [image_path(images, WORKLOADS[0], 0).read_bytes()]
    contender.first_call(data)
    parts = contender.profile(data)
    assert parts is not None
    # 36 prompts are two batches of 32 rows, each with one that is present; padding counts as absent.
    assert parts["mask head on absent prompts"] == pytest.approx(parts["mask head"] * 62 / 64)
    found = contender.label(data).found
    assert compare({"compiled": [{str(prompt): masks for prompt, masks in found[0].items()}]}, WORKLOADS[0], {})["ok"]


def test_what_fails_is_said_and_the_next_is_tried(tiny: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_images: Any) -> None:
        raise RuntimeError("no\nmemory")

    contender = make_contender("compiled", settings(tiny))
    monkeypatch.setattr(contender, "first_call", fail)
    rows: list[dict[str, Any]] = []

    def write(so_far: list[dict[str, Any]]) -> None:
        rows[:] = so_far

    done = measure_workloads(
        contender,
        "compiled",
        [(WORKLOADS[0], 1), (WORKLOADS[1], 1)],
        image_folder=images,
        budget_s=60.0,
        write=write,
        say=lambda _: None,
    )
    assert not done
    assert [(row["status"], row["reason"]) for row in rows] == [("failed", "RuntimeError: no")] * 2


def test_what_has_no_time_left_is_skipped(tiny: Path, images: Path) -> None:
    rows: list[dict[str, Any]] = []

    def write(so_far: list[dict[str, Any]]) -> None:
        rows[:] = so_far

    workloads = [(WORKLOADS[0], 1), (WORKLOADS[1], 1)]
    contender = make_contender("sam3lt", settings(tiny))
    assert measure_workloads(
        contender, "sam3lt", workloads, image_folder=images, budget_s=0.0, write=write, say=lambda _: None
    )
    assert [row["status"] for row in rows] == ["measured", "skipped"]


def test_every_prompt_has_tokens_of_its_own(tiny: Path) -> None:
    from sam3lt_ray.benchmark.workloads import make_prompts

    ids, mask = PromptTokenizer(resolve_checkpoint(str(tiny))).encode(make_prompts(1000))
    assert len({tuple(row) for row in ids.tolist()}) == 1000
    assert (ids == 1).sum() == 0  # no unknown words
    assert ids.shape == mask.shape == (1000, 32)


def test_a_part_inside_a_part_counts_once() -> None:
    clock = PartClock(torch.device("cpu"))
    clock.start()
    with clock.part("vision"), clock.part("mask head"):
        pass
    found = clock.milliseconds()
    assert found["mask head"] == 0
    assert found["vision"] > 0
    assert found["all"] == pytest.approx(sum(value for part, value in found.items() if part != "all"))
