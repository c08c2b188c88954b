"""Which images stand for a run: few, the same every time, and not only the beautiful ones."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sam3lt_ray.labels.reading import LabeledImage
from sam3lt_ray.report.overlay import shown_instances


def choose_images(
    images: Iterable[LabeledImage], score_thresholds: Mapping[int, float], max_images: int
) -> list[LabeledImage]:
    """Choose images for a contact sheet in one sweep; memory grows with labels and ``max_images`` only.

    First every label gets the image with its best score (as far as there is room), then half of the room that is left
    goes to the fullest images and the rest to a sample by image id, which is as good as random and also shows images
    in which nothing was found.

    Args:
        images: All images of a run.
        score_thresholds: Least score by label id.
        max_images: How many.

    Returns:
        Labeled images (status "ok") in their order in the run.
    """
    candidates = _Candidates(max_images)
    for position, image in enumerate(images):
        if image.status == "ok":
            candidates.add(position, image, score_thresholds)
    return candidates.choose()


_Entry: TypeAlias = tuple[tuple[int, int], int, LabeledImage]  # rank, negative position in the run, image


@dataclass(slots=True)
class _Candidates:
    max_images: int
    best_of_label: dict[int, tuple[float, int, LabeledImage, frozenset[int]]] = field(default_factory=dict)
    # Heaps whose smallest entry goes first; positions are unique, so images themselves are never compared.
    fullest: list[_Entry] = field(default_factory=list)
    sample: list[_Entry] = field(default_factory=list)

    def add(self, position: int, image: LabeledImage, score_thresholds: Mapping[int, float]) -> None:
        shown = shown_instances(image, score_thresholds)
        label_ids = frozenset(found.label_id for found in shown)
        for found in shown:
            best = self.best_of_label.get(found.label_id)
            if best is None or found.score > best[0]:
                self.best_of_label[found.label_id] = (found.score, position, image, label_ids)
        _push(self.fullest, ((len(label_ids), len(shown)), -position, image), self.max_images)
        _push(self.sample, ((-int(image.image_id[:12], 16), 0), -position, image), self.max_images)

    def choose(self) -> list[LabeledImage]:
        chosen: dict[int, LabeledImage] = {}
        covered: set[int] = set()
        for label_id in sorted(self.best_of_label):
            _, position, image, label_ids = self.best_of_label[label_id]
            if label_id not in covered and len(chosen) < self.max_images:
                chosen[position] = image
                covered |= label_ids
        half = len(chosen) + (self.max_images - len(chosen) + 1) // 2
        for heap, room in ((self.fullest, half), (self.sample, self.max_images), (self.fullest, self.max_images)):
            for _, negative_position, image in sorted(heap, key=lambda item: item[:2], reverse=True):
                if len(chosen) < room:
                    chosen.setdefault(-negative_position, image)
        return [chosen[position] for position in sorted(chosen)]


def _push(heap: list[_Entry], entry: _Entry, max_entries: int) -> None:
    if len(heap) < max_entries:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)
