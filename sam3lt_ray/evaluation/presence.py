"""Whether a run knows what is in an image and, above all, what is not: counted over (image, label) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np
import numpy.typing as npt

from sam3lt_ray.evaluation.figures import PresenceFigures
from sam3lt_ray.labels.reading import LabeledImage

_PRESENT: Final = 0.5  # presence probability from which the model says "it is there"
_COUNTS = ("pairs", "present", "right", "right_by_score", "false_instance", "missed")


class PresenceTally:
    """Counts image by image.

    Args:
        label_ids: Labels that are measured.
        score_threshold: From which score on an instance counts as said to be there.
    """

    def __init__(self, label_ids: Sequence[int], score_threshold: float) -> None:
        self._label_ids = tuple(label_ids)
        self._score_threshold = score_threshold
        self._counts: dict[str, npt.NDArray[np.int64]] = {
            name: np.zeros(len(self._label_ids), dtype=np.int64) for name in _COUNTS
        }

    def add(self, image: LabeledImage, present_label_ids: AbstractSet[int]) -> None:
        """Count one image. Labels that it was not asked for (a layer that is not complete) are passed over.

        Args:
            image: What the run says; status "ok".
            present_label_ids: Labels with at least one object in the ground truth.
        """
        seen = {found.label_id for found in image.instances if found.score >= self._score_threshold}
        asked = np.array([label_id in image.presence for label_id in self._label_ids])
        present = np.array([label_id in present_label_ids for label_id in self._label_ids])
        said = np.array([image.presence.get(label_id, 0.0) >= _PRESENT for label_id in self._label_ids])
        found = np.array([label_id in seen for label_id in self._label_ids])
        self._counts["pairs"] += asked
        self._counts["present"] += asked & present
        self._counts["right"] += asked & (said == present)
        self._counts["right_by_score"] += asked & (found == present)
        self._counts["false_instance"] += asked & found & ~present
        self._counts["missed"] += asked & present & ~found

    def overall(self) -> PresenceFigures:
        """Figures over all pairs."""
        return _figures({name: int(values.sum()) for name, values in self._counts.items()})

    def of_label(self, label_id: int) -> PresenceFigures:
        """Figures over one label's pairs."""
        position = self._label_ids.index(label_id)
        return _figures({name: int(values[position]) for name, values in self._counts.items()})


def _figures(counts: dict[str, int]) -> PresenceFigures:
    pairs = counts["pairs"]
    return PresenceFigures(
        pairs=pairs,
        present_pairs=counts["present"],
        absent_pairs=pairs - counts["present"],
        accuracy=counts["right"] / pairs if pairs else None,
        accuracy_by_score=counts["right_by_score"] / pairs if pairs else None,
        false_instance_pairs=counts["false_instance"],
        missed_pairs=counts["missed"],
    )
