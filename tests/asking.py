"""A stand-in for the model that writes down which images it was asked for which prompts, in whatever process."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sam3lt_ray.config.schema import Config
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.masks.rle import encode_mask
from sam3lt_ray.records import Detection, ImageDetections
from tests.standin import StandInEngine

if TYPE_CHECKING:
    from sam3lt_ray.pipeline.actor_plan import ActorResources


class AskedEngine(StandInEngine):
    """Answers depend on the image's red and on the prompt's text alone; images with a red that is too large fail.

    It takes one image at a time: where a batch fails, all of its images are asked again, one by one.

    Args:
        prompts: What is asked.
        notes: Folder that receives a file per process with what was asked.
        fails_from_red: Images of one colour with at least this much red fail.
    """

    images_per_batch = 1

    def __init__(self, prompts: Sequence[str], notes: Path, fails_from_red: int) -> None:
        super().__init__(len(prompts))
        self._prompts = list(prompts)
        self._file = notes / f"{os.getpid()}.jsonl"
        self._fails_from_red = fails_from_red

    def _one(self, image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> ImageDetections:
        red = int(image[0, 0, 0])
        if red >= self._fails_from_red:
            raise RuntimeError("this image is too red")
        with self._file.open("a") as file:
            file.writelines(json.dumps([red, prompt]) + "\n" for prompt in self._prompts)
        detections = []
        for position, prompt in enumerate(self._prompts):
            number = zlib.crc32(f"{red} {prompt}".encode())
            mask = np.zeros(size_hw, bool)
            mask[number % 20 : number % 20 + 5, number % 30 : number % 30 + 7] = True
            box = (float(number % 30), float(number % 20), float(number % 30 + 7), float(number % 20 + 5))
            detections.append(Detection(position, 0.3 + number % 70 / 100, box, int(mask.sum()), encode_mask(mask)))
        presence = np.array([zlib.crc32(f"{prompt} {red}".encode()) % 100 / 100 for prompt in self._prompts])
        return ImageDetections(presence.astype(np.float32), np.zeros(len(self._prompts), bool), detections)


def load_asked(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    config: Config,
    resources: ActorResources,
    *,
    notes: Path,
    fails_from_red: int = 256,
) -> AskedEngine:
    """An engine factory for ``label_run``."""
    return AskedEngine(prompts, notes, fails_from_red)


def read_notes(notes: Path) -> Counter[tuple[int, str]]:
    """How often each (red of an image, prompt) was asked; a line that is being written does not count."""
    asked: Counter[tuple[int, str]] = Counter()
    for file in notes.iterdir():
        lines = file.read_text().split("\n")[:-1]
        asked.update((red, prompt) for red, prompt in map(json.loads, lines))
    return asked
