"""The documented loop: everything again for every (image, prompt)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

import numpy as np
import torch
from pycocotools import mask as coco_mask

from sam3lt_ray.benchmark.answers import ForcedAnswers
from sam3lt_ray.benchmark.contenders import ContenderSettings, Found, Pass
from sam3lt_ray.benchmark.post_processing import post_process_instance_segmentation
from sam3lt_ray.benchmark.workloads import Workload, make_prompts
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.images.decode import decode_image
from sam3lt_ray.images.resize import resize_for_model

FLOOR: Final = 0.2
MASK_THRESHOLD: Final = 0.5
MAX_PIXELS: Final = 200_000_000
ALL_UP_TO: Final = 10  # larger vocabularies are extrapolated
SUBSET: Final = 4


class Documented:
    """The model's forward with ``pixel_values`` and ``input_ids``, in fp32, pair by pair."""

    def __init__(self, settings: ContenderSettings) -> None:
        self._settings = settings
        self._device = torch.device(settings.device)
        self._load_s = 0.0
        self._model: Any = None

    def prepare(self, workload: Workload) -> float:
        """Loads the model, once."""
        if self._model is None:
            started_s = time.perf_counter()
            self._checkpoint = resolve_checkpoint(self._settings.checkpoint)
            self._tokenizer = PromptTokenizer(self._checkpoint)
            self._model = load_model(self._checkpoint).to(self._device)
            self._load_s = time.perf_counter() - started_s
        self._workload = workload
        self._prompts = make_prompts(workload.num_prompts)
        num_queries = self._model.config.detr_decoder_config.num_queries
        self._answers = ForcedAnswers(workload, num_queries, self._device)
        self._asked = choose_subset(self._answers.present.tolist())
        return self._load_s

    def first_call(self, images: Sequence[bytes]) -> None:
        """One pair of each kind."""
        present = self._answers.present
        for is_present in (False, True):
            some = [prompt for prompt in self._asked if bool(present[prompt]) is is_present]
            if some:
                self._label_pair(images[0], some[0])

    def label(self, images: Sequence[bytes]) -> Pass:
        """The pairs one after the other; of a large vocabulary only some prompts are asked."""
        pair_s: dict[bool, list[float]] = {True: [], False: []}
        found: Found = []
        for data in images:
            by_prompt = {}
            for prompt in self._asked:
                started_s = time.perf_counter()
                by_prompt[prompt] = self._label_pair(data, prompt)
                pair_s[bool(self._answers.present[prompt])].append(time.perf_counter() - started_s)
            found.append(by_prompt)
        counts = {True: self._workload.num_present, False: self._workload.num_prompts - self._workload.num_present}
        return Pass(sum(counts[kind] * fmean(seconds) for kind, seconds in pair_s.items() if seconds), found)

    def profile(self, images: Sequence[bytes]) -> None:
        """Not taken apart."""

    def facts(self) -> dict[str, Any]:
        """From how many prompts the time was extrapolated, if it was."""
        facts: dict[str, Any] = {"precision": "fp32", "asked_prompts": self._asked, "extrapolated_from": None}
        if len(self._asked) < len(self._prompts):
            present = int(self._answers.present[self._asked].sum())
            facts["extrapolated_from"] = {
                "prompts": len(self._asked),
                "present": present,
                "absent": len(self._asked) - present,
            }
        return facts

    @torch.inference_mode()
    def _label_pair(self, data: bytes, prompt: int) -> list[dict[str, Any]]:
        image = decode_image(data, max_pixels=MAX_PIXELS)
        pixels = resize_for_model(image, self._checkpoint.image_size)
        mean, std = (torch.tensor(values) for values in (self._checkpoint.image_mean, self._checkpoint.image_std))
        values = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(2, 0, 1)[None].contiguous()
        ids, mask = (torch.from_numpy(array) for array in self._tokenizer.encode([self._prompts[prompt]]))
        outputs = self._model(
            pixel_values=values.to(self._device),
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
        )
        outputs.pred_logits = self._answers.logits(outputs.pred_logits, slice(prompt, prompt + 1))
        outputs.presence_logits = self._answers.presence_logits(outputs.presence_logits)
        if self._answers.present[prompt]:
            outputs.pred_masks = self._answers.put_masks(outputs.pred_masks)
        (result,) = post_process_instance_segmentation(
            outputs, threshold=FLOOR, mask_threshold=MASK_THRESHOLD, target_sizes=[image.shape[:2]]
        )
        masks = result["masks"].cpu().numpy().astype(np.uint8)
        return [encode_mask(one) for one in masks]


def encode_mask(mask_hw: Any) -> dict[str, Any]:
    """Run lengths as pycocotools compresses them, with the counts as text."""
    encoded = coco_mask.encode(np.asfortranarray(mask_hw))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def choose_subset(present: Sequence[bool]) -> list[int]:
    """Which prompts are really asked: all of a small vocabulary, else two present and two absent ones if there are."""
    if len(present) <= ALL_UP_TO:
        return list(range(len(present)))
    there, absent = ([prompt for prompt, is_there in enumerate(present) if is_there is kind] for kind in (True, False))
    take = min(len(there), max(SUBSET // 2, SUBSET - len(absent)))
    return sorted(there[:take] + absent[: SUBSET - take])
