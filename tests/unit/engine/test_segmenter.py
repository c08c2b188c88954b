from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import sam3lt_ray.engine.segmenter as segmenter_module
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter
from sam3lt_ray.errors import ConfigError, UsageError
from sam3lt_ray.masks.rle import decode_mask
from tests.checkpoints import IMAGE_SIZE, NUM_QUERIES, PROMPTS
from tests.engine_reference import (
    Loaded,
    mask_iou,
    random_checkpoints,  # noqa: F401  (a fixture)
    s0,  # noqa: F401  (a fixture)
    smooth_image,
)

CPU = EngineSettings(device="cpu", precision="fp32")


def test_the_text_encoder_is_let_go(random_checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    watched: list[weakref.ref[Any]] = []
    load = segmenter_module.load_model

    def watch(checkpoint: Checkpoint) -> Any:
        model = load(checkpoint)
        for part in (model.text_encoder, model.text_projection, model.geometry_encoder, model):
            watched.extend(weakref.ref(parameter) for parameter in part.parameters() if part is not model)
            watched.append(weakref.ref(part))
        return model

    monkeypatch.setattr(segmenter_module, "load_model", watch)
    segmenter = Segmenter.load(random_checkpoints["s0"], PROMPTS, CPU)
    gc.collect()
    assert len(watched) > 20
    assert [reference for reference in watched if reference() is not None] == []
    assert segmenter.segment([smooth_image(IMAGE_SIZE, 0)], [(40, 60)])[0].presence.shape == (len(PROMPTS),)


def test_bf16_is_close_to_fp32(s0: Loaded, random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    settings = EngineSettings(device="cpu", precision="bf16")
    bf16 = Segmenter.load(random_checkpoints["s0"], PROMPTS, settings)
    assert (bf16.precision, s0.segmenter.precision) == ("bf16", "fp32")
    images, sizes = [smooth_image(IMAGE_SIZE, seed) for seed in (1, 2)], [(60, 90), (90, 60)]
    for rough, exact in zip(bf16.segment(images, sizes), s0.segmenter.segment(images, sizes), strict=True):
        np.testing.assert_allclose(rough.presence, exact.presence, atol=0.08)
        clear = [one for one in exact.detections if one.score > 0.35]
        assert clear
        ious = []
        for one in clear:
            partners = [other for other in rough.detections if other.prompt == one.prompt]
            assert partners
            partner = min(partners, key=lambda other: np.abs(np.subtract(other.box_xyxy, one.box_xyxy)).sum())
            assert partner.score == pytest.approx(one.score, abs=0.12)
            ious.append(mask_iou(decode_mask(partner.mask), decode_mask(one.mask)))
        assert np.median(ious) > 0.9


def test_presence_is_float32_and_finite_in_bf16(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    settings = EngineSettings(device="cpu", precision="bf16", score_floor=0.0)
    (found,) = Segmenter.load(random_checkpoints["l"], PROMPTS, settings).segment(
        [smooth_image(IMAGE_SIZE, 1)], [(9, 7)]
    )
    assert found.presence.dtype == np.float32
    scores = np.array([one.score for one in found.detections])
    assert len(scores) == len(PROMPTS) * NUM_QUERIES
    assert (scores != torch.from_numpy(scores).bfloat16().double().numpy()).mean() > 0.9  # not rounded to bf16


def test_floor_and_saturation(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    pixels, sizes = [smooth_image(IMAGE_SIZE, 0)], [(45, 31)]
    counts = {}
    for floor in (0.0, 0.2, 1.0):
        settings = EngineSettings(device="cpu", precision="fp32", score_floor=floor)
        (found,) = Segmenter.load(random_checkpoints["s1"], PROMPTS, settings).segment(pixels, sizes)
        assert all(one.score > floor for one in found.detections)
        per_prompt = [sum(one.prompt == prompt for one in found.detections) for prompt in range(len(PROMPTS))]
        assert found.saturated.tolist() == [count >= 0.9 * NUM_QUERIES for count in per_prompt]
        counts[floor] = len(found.detections)
    assert counts[0.0] == len(PROMPTS) * NUM_QUERIES > counts[0.2] > counts[1.0] == 0


def test_an_instance_whose_mask_vanishes_is_kept_with_area_0(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    settings = EngineSettings(device="cpu", precision="fp32", mask_threshold=1.0, score_floor=0.1)
    (found,) = Segmenter.load(random_checkpoints["s0"], PROMPTS, settings).segment(
        [smooth_image(IMAGE_SIZE, 1)], [(30, 50)]
    )
    assert found.detections
    assert {one.area for one in found.detections} == {0}
    assert not decode_mask(found.detections[0].mask).any()


def test_boxes_are_in_pixels_of_the_image(s0: Loaded) -> None:  # noqa: F811
    pixels = smooth_image(IMAGE_SIZE, 2)
    small, large = (s0.segmenter.segment([pixels], [size])[0].detections for size in ((20, 50), (200, 500)))
    assert small
    for one, other in zip(small, large, strict=True):
        np.testing.assert_allclose(np.multiply(one.box_xyxy, 10), other.box_xyxy, rtol=1e-4, atol=1e-3)
        assert (one.mask.size, other.mask.size) == ((20, 50), (200, 500))


def test_wrong_images_are_refused(s0: Loaded) -> None:  # noqa: F811
    good = smooth_image(IMAGE_SIZE, 0)
    with pytest.raises(ValueError, match="1 images but 2 sizes"):
        s0.segmenter.segment([good], [(5, 5), (6, 6)])
    with pytest.raises(ValueError, match=r"image 1 is uint8\[111, 112, 3\]"):
        s0.segmenter.segment([good, good[1:]], [(5, 5), (6, 6)])
    with pytest.raises(ValueError, match="image 0 is float32"):
        s0.segmenter.segment([good.astype(np.float32)], [(5, 5)])
    with pytest.raises(ValueError, match="size of image 0 is 0 x 5"):
        s0.segmenter.segment([good], [(0, 5)])


def test_no_images(s0: Loaded) -> None:  # noqa: F811
    assert s0.segmenter.segment([], []) == []


def test_images_are_not_written_to(s0: Loaded) -> None:  # noqa: F811
    pixels = smooth_image(IMAGE_SIZE, 0)
    before = pixels.copy()
    s0.segmenter.segment([pixels], [(30, 40)])
    np.testing.assert_array_equal(pixels, before)


def test_time_of_the_device_grows_with_work_only(s0: Loaded) -> None:  # noqa: F811
    before = s0.segmenter.part_seconds
    s0.segmenter.segment([], [])
    assert s0.segmenter.part_seconds == before
    found = s0.segmenter.segment([smooth_image(IMAGE_SIZE, 0)], [(30, 40)])
    assert found[0].detections
    after = s0.segmenter.part_seconds
    assert all(after[part] > before[part] for part in ("vision", "prompts", "masks", "runs"))


def test_calls_from_two_threads_do_not_mix(s0: Loaded) -> None:  # noqa: F811
    expected = [s0.segmenter.segment([smooth_image(IMAGE_SIZE, seed)], [(30, 40 + seed)]) for seed in range(4)]
    found: dict[int, Any] = {}

    def work(seed: int) -> None:
        found[seed] = s0.segmenter.segment([smooth_image(IMAGE_SIZE, seed)], [(30, 40 + seed)])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        assert found[seed][0].detections == expected[seed][0].detections


def test_bad_vocabularies_are_refused(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="vocabulary is empty"):
        Segmenter.load(random_checkpoints["s0"], [], CPU)
    with pytest.raises(ConfigError, match="too long"):
        Segmenter.load(random_checkpoints["s0"], ["cat", "cat " * 40], CPU)


def test_what_it_says_about_itself(s0: Loaded) -> None:  # noqa: F811
    assert s0.segmenter.device == "cpu"
    assert s0.segmenter.image_size == IMAGE_SIZE
    assert s0.segmenter.num_queries == NUM_QUERIES
    assert s0.segmenter.num_prompts == len(PROMPTS)


def test_threads_are_set_only_when_asked_for(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    before = torch.get_num_threads()
    try:
        Segmenter.load(random_checkpoints["sam3"], ["cat"], CPU)
        assert torch.get_num_threads() == before
        Segmenter.load(
            random_checkpoints["sam3"], ["cat"], EngineSettings(device="cpu", precision="fp32", num_threads=before + 1)
        )
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


class ShortMemory:
    """Makes a part of the model refuse more than so many pairs at once."""

    def __init__(self, owner: Any, name: str, most_pairs: int) -> None:
        self.asked: list[int] = []
        plain = getattr(owner, name)

        def guarded(*arguments: Any) -> Any:
            pairs = arguments[1]
            count = len(pairs.prompts) if hasattr(pairs, "prompts") else len(pairs)
            self.asked.append(count)
            if count > most_pairs:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(*arguments)

        setattr(owner, name, guarded)


def test_too_many_prompts_for_the_memory_are_halved_once_and_for_all(
    random_checkpoints: dict[str, Checkpoint],  # noqa: F811
    s0: Loaded,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = EngineSettings(device="cpu", precision="fp32", images_per_batch=2, prompts_per_batch=8)
    segmenter = Segmenter.load(random_checkpoints["s0"], PROMPTS, settings)
    memory = ShortMemory(segmenter._parts.grounding, "ground", most_pairs=3)
    images, sizes = [smooth_image(IMAGE_SIZE, seed) for seed in range(2)], [(40, 61), (61, 40)]
    for found, expected in zip(segmenter.segment(images, sizes), s0.segmenter.segment(images, sizes), strict=True):
        np.testing.assert_allclose(found.presence, expected.presence, atol=1e-4)
        assert len(found.detections) == len(expected.detections) > 0
    assert (segmenter.at_once.prompts, segmenter.memory_halvings) == (2, 2)
    assert memory.asked[:3] == [8, 4, 2]
    assert caplog.text.count("compute.prompts_per_batch") == 2
    segmenter.segment(images, sizes)
    assert max(memory.asked[3:]) == 2


def test_too_many_masks_for_the_memory_are_halved(
    random_checkpoints: dict[str, Checkpoint],  # noqa: F811
    s0: Loaded,  # noqa: F811
) -> None:
    settings = EngineSettings(device="cpu", precision="fp32", prompts_per_batch=8)
    segmenter = Segmenter.load(random_checkpoints["s0"], PROMPTS, settings)
    memory = ShortMemory(segmenter._parts.mask_head, "logits", most_pairs=1)
    image, size = smooth_image(IMAGE_SIZE, 1), (40, 61)
    (found,), (expected,) = segmenter.segment([image], [size]), s0.segmenter.segment([image], [size])
    assert found.detections == expected.detections
    assert max(memory.asked) == 2
    assert segmenter.memory_halvings == 1


def test_an_image_that_does_not_fit_at_all_is_told(random_checkpoints: dict[str, Checkpoint]) -> None:  # noqa: F811
    segmenter = Segmenter.load(random_checkpoints["s0"], PROMPTS, CPU)
    ShortMemory(segmenter._parts.grounding, "ground", most_pairs=0)
    with pytest.raises(torch.OutOfMemoryError):
        segmenter.segment([smooth_image(IMAGE_SIZE, 0)], [(40, 61)])


def test_nothing_of_the_images_is_kept_when_they_are_done(s0: Loaded) -> None:  # noqa: F811
    submissions = [s0.segmenter.submit([smooth_image(IMAGE_SIZE, seed)], [(40, 61)]) for seed in range(3)]
    first, second, third = (weakref.ref(one.batches[0]) for one in submissions)
    while submissions:
        assert s0.segmenter.collect(submissions.pop(0))
    gc.collect()
    assert [first(), second(), third()] == [None, None, None]
