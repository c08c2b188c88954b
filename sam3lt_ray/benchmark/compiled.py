"""transformers' modules as a good engineer would use them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from pycocotools import mask as coco_mask

from sam3lt_ray.benchmark.answers import ForcedAnswers
from sam3lt_ray.benchmark.compiled_modules import CompiledModules, compile_modules, place_model
from sam3lt_ray.benchmark.contenders import ContenderSettings, Found, Pass
from sam3lt_ray.benchmark.part_clock import Part, PartClock
from sam3lt_ray.benchmark.post_processing import post_process_instance_segmentation
from sam3lt_ray.benchmark.workloads import Workload, make_prompts
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.images.decode import decode_rgb
from sam3lt_ray.images.resize import resize_for_model

_FLOOR: Final = 0.2
_MASK_THRESHOLD: Final = 0.5
_MAX_PIXELS: Final = 200_000_000
_PROMPTS_AT_ONCE: Final = 32
_IMAGES_AT_ONCE_CUDA: Final = 8


class Compiled:
    """Text once, vision once per image, prompts in batches of one size, masks where a batch has a present prompt.

    Compiled, the mask decoder runs for the whole batch then, because that is what static shapes give; eager, for the
    present prompts only.
    """

    def __init__(self, settings: ContenderSettings) -> None:
        self._settings = settings
        self._device = torch.device(settings.device)
        self._dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self._images_at_once = _IMAGES_AT_ONCE_CUDA if self._device.type == "cuda" else 1
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        torch.backends.cudnn.benchmark = True  # shapes are static: let it choose
        self._clock: PartClock | None = None
        self._model: Any = None
        self._model_s = 0.0
        self._text_of: int | None = None

    def prepare(self, workload: Workload) -> float:
        """Loads the model, once, and encodes the vocabulary."""
        started_s = time.perf_counter()
        if self._model is None:
            self._checkpoint = resolve_checkpoint(self._settings.checkpoint)
            self._tokenizer = PromptTokenizer(self._checkpoint)
            self._model = load_model(self._checkpoint)
            place_model(self._model, self._device, self._dtype)
            with torch.no_grad():
                self._modules: CompiledModules = compile_modules(
                    self._model, self._checkpoint, self._device, self._dtype, compiled=self._settings.compile
                )
            self._model_s = time.perf_counter() - started_s
            started_s = time.perf_counter()
        self._workload = workload
        self._batch = min(_PROMPTS_AT_ONCE, workload.num_prompts)
        if self._text_of != workload.num_prompts:
            self._encode_text(make_prompts(workload.num_prompts))
            self._text_of = workload.num_prompts
        num_queries = self._model.config.detr_decoder_config.num_queries
        self._answers = ForcedAnswers(workload, num_queries, self._device)
        self._mask_rows = self._present_rows = 0
        return self._model_s + time.perf_counter() - started_s

    @torch.no_grad()
    def first_call(self, images: Sequence[bytes]) -> None:
        """Every function once, in the shapes of this vocabulary; only masks that are not compiled can be left out."""
        pixels, size_hw = next(self._prepare_ahead(images[:1]))
        levels = self._vision([pixels])
        self._label_prompts(
            [level[:1] for level in levels], size_hw, slice(0, self._batch), always_masks=self._settings.compile
        )
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def label(self, images: Sequence[bytes]) -> Pass:
        """Batches of images through the vision encoder, then each image against batches of prompts."""
        started_s = time.perf_counter()
        prepared = self._prepare_ahead(images)
        pending: list[list[tuple[int, Future[list[dict[str, Any]]]]]] = []
        while batch := [item for _, item in zip(range(self._images_at_once), prepared, strict=False)]:
            levels = self._vision([pixels for pixels, _ in batch])
            for row, (_, size_hw) in enumerate(batch):
                of_image = [level[row : row + 1] for level in levels]
                found: list[tuple[int, Future[list[dict[str, Any]]]]] = []
                for first in range(0, len(self._text), self._batch):
                    found += self._label_prompts(of_image, size_hw, slice(first, first + self._batch))
                pending.append(found)
        results: Found = [{prompt: encoded.result() for prompt, encoded in found} for found in pending]
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return Pass((time.perf_counter() - started_s) / len(images), results)

    def profile(self, images: Sequence[bytes]) -> dict[str, float]:
        """By part; also what the mask decoder spends on absent prompts."""
        self._clock = PartClock(self._device)
        self._mask_rows = self._present_rows = 0
        self._clock.start()
        try:
            self.label(images)
            parts = self._clock.milliseconds()
        finally:
            self._clock = None
        absent = self._mask_rows - self._present_rows
        parts["mask head on absent prompts"] = parts["mask head"] * absent / max(1, self._mask_rows)
        return parts

    def facts(self) -> dict[str, Any]:
        """Batch sizes, precision, whether it compiled."""
        return {
            "precision": self._settings.precision,
            "torch_compile": self._settings.compile,
            "images_per_batch": self._images_at_once,
            "prompts_per_batch": self._batch,
            "extrapolated_from": None,
        }

    @torch.no_grad()
    def _encode_text(self, prompts: list[str]) -> None:
        """Features of the vocabulary, filled up to whole batches with its last prompt."""
        filled = prompts + prompts[-1:] * (-len(prompts) % self._batch)
        ids, mask = (torch.from_numpy(array).to(self._device) for array in self._tokenizer.encode(filled))
        parts = [
            self._model.get_text_features(input_ids=some_ids, attention_mask=some_mask, return_dict=True).pooler_output
            for some_ids, some_mask in zip(ids.split(128), mask.split(128), strict=True)
        ]
        self._text, self._text_mask = torch.cat(parts).to(self._dtype), mask.bool()
        positions = self._modules.positions.expand(self._batch, -1, -1, -1)
        self._positions, self._flat_positions = positions, positions.flatten(2).transpose(1, 2)

    def _vision(self, pixels: list[Any]) -> tuple[torch.Tensor, ...]:
        filled = pixels + pixels[-1:] * (self._images_at_once - len(pixels))
        with self._part("vision"):
            levels: tuple[torch.Tensor, ...] = self._modules.vision(torch.from_numpy(np.stack(filled)).to(self._device))
        return levels

    def _label_prompts(
        self, levels: list[torch.Tensor], size_hw: tuple[int, int], prompts: slice, *, always_masks: bool = False
    ) -> list[tuple[int, Future[list[dict[str, Any]]]]]:
        """One image and one batch of prompts: (prompt, its encoded masks) for those that have an instance."""
        expanded = [level.expand(self._batch, -1, -1, -1) for level in levels]
        text, text_mask = self._text[prompts], self._text_mask[prompts]
        with self._part("encoder and decoder"):
            memory = self._modules.encode(expanded[-1], self._positions, text, text_mask)
            queries, boxes, logits, presence = self._modules.decode(memory, self._flat_positions, text, text_mask)
            logits = self._answers.logits(logits, prompts)
            presence = self._answers.presence_logits(presence)
            some = ((logits.sigmoid() * presence.sigmoid()) > _FLOOR).any(dim=1).nonzero()[:, 0]
        if not len(some) and not always_masks:
            return []
        with self._part("mask head"):
            if self._settings.compile:  # static shapes: all rows or none
                pred_masks = self._modules.masks(queries, expanded, memory, text, text_mask)[some]
                self._mask_rows += self._batch
            else:
                of_some = [level.expand(len(some), -1, -1, -1) for level in levels]
                pred_masks = self._modules.masks(queries[some], of_some, memory[some], text[some], text_mask[some])
                self._mask_rows += len(some)
        self._present_rows += len(some)
        if not len(some):
            return []
        with self._part("run lengths"):
            outputs = SimpleNamespace(
                pred_masks=self._answers.put_masks(pred_masks),
                pred_boxes=boxes[some].float(),
                pred_logits=logits[some],
                presence_logits=presence[some],
            )
            results = post_process_instance_segmentation(
                outputs, threshold=_FLOOR, mask_threshold=_MASK_THRESHOLD, target_sizes=[size_hw] * len(some)
            )
            return [
                (prompts.start + row, self._encode(result["masks"]))
                for row, result in zip(some.tolist(), results, strict=True)
            ]

    def _encode(self, masks: torch.Tensor) -> Future[list[dict[str, Any]]]:
        # Turned on the device: pycocotools wants columns one after the other.
        by_column = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
        encoded = self._encoder.submit(_encode_by_column, by_column)
        if self._clock is not None:
            encoded.result()  # so that it counts where it belongs
        return encoded

    def _prepare_ahead(self, images: Sequence[bytes]) -> Iterator[tuple[Any, tuple[int, int]]]:
        pending: deque[Future[tuple[Any, tuple[int, int]]]] = deque()
        for data in images:
            pending.append(self._decoders.submit(self._prepare_image, data))
            if len(pending) >= self._settings.decode_threads + 2 * self._images_at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _prepare_image(self, data: bytes) -> tuple[Any, tuple[int, int]]:
        image = decode_rgb(data, max_pixels=_MAX_PIXELS)
        return resize_for_model(image, self._checkpoint.image_size), (image.height, image.width)

    def _part(self, part: Part) -> AbstractContextManager[None]:
        return nullcontext() if self._clock is None else self._clock.part(part)


def _encode_by_column(masks_nwh: Any) -> list[dict[str, Any]]:
    encoded = coco_mask.encode(masks_nwh.transpose(2, 1, 0))
    return [{"size": list(one["size"]), "counts": one["counts"].decode("ascii")} for one in encoded]
