"""The result of an evaluation: numbers, their JSON form and a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from sam3lt_ray.storage.run_directory import read_json, write_json
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.terminal import count_of

EVALUATION_PATH: Final = "exports/evaluation.json"


@dataclass(frozen=True, slots=True)
class MaskFigures:
    """Mask precision and recall as COCO defines them; None where there is nothing to measure.

    Attributes:
        ap: Mean average precision over IoU thresholds 0.50 to 0.95.
        ap50: At IoU 0.50.
        ap75: At IoU 0.75.
        ap_small: Objects below 32 x 32 pixels.
        ap_medium: Objects from 32 x 32 to 96 x 96 pixels.
        ap_large: Larger objects.
        ar: Mean recall over the same IoU thresholds.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: float | None


@dataclass(frozen=True, slots=True)
class PresenceFigures:
    """How well the run tells whether a label is in an image at all, over (image, label) pairs.

    Attributes:
        pairs: Pairs that were asked and answered.
        present_pairs: Pairs with at least one object in the ground truth.
        absent_pairs: Pairs without.
        accuracy: Share of pairs where "presence probability >= 0.5" is right.
        accuracy_by_score: Share of pairs where "an instance scores at least the threshold" is right.
        false_instance_pairs: Absent pairs that have an instance with at least the threshold's score.
        missed_pairs: Present pairs that have none.
    """

    pairs: int
    present_pairs: int
    absent_pairs: int
    accuracy: float | None
    accuracy_by_score: float | None
    false_instance_pairs: int
    missed_pairs: int

    @property
    def false_instance_share(self) -> float | None:
        """Share of absent pairs with an instance where there should be none."""
        return self.false_instance_pairs / self.absent_pairs if self.absent_pairs else None

    @property
    def missed_share(self) -> float | None:
        """Share of present pairs of which nothing was found."""
        return self.missed_pairs / self.present_pairs if self.present_pairs else None


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """Figures of one label; ``objects`` counts its ground-truth objects without crowd regions."""

    label_id: int
    name: str
    objects: int
    masks: MaskFigures
    presence: PresenceFigures


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """A run measured against ground truth.

    Attributes:
        ground_truth: Where the ground truth was read.
        images: Images measured.
        failed_images: Of these, images that could not be labeled: their objects count as missed.
        images_not_in_run: Ground-truth images that the run does not have; not measured.
        images_not_in_ground_truth: Images of the run that the ground truth does not have; not measured.
        objects: Ground-truth objects measured, without crowd regions.
        detections: Instances measured.
        max_detections: Best instances that count per image and label.
        score_threshold: Threshold used for the presence figures (not for AP, which takes every score).
        labels_not_in_ground_truth: Names of labels that could not be measured.
        categories_not_in_run: Names of ground-truth categories that no label stands for.
        masks: Figures over all labels.
        presence: Figures over all pairs.
        labels: Figures by label.
    """

    ground_truth: str
    images: int
    failed_images: int
    images_not_in_run: int
    images_not_in_ground_truth: int
    objects: int
    detections: int
    max_detections: int
    score_threshold: float
    labels_not_in_ground_truth: tuple[str, ...]
    categories_not_in_run: tuple[str, ...]
    masks: MaskFigures
    presence: PresenceFigures
    labels: tuple[LabelFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` reads them back."""
        value = asdict(self)
        value["presence"]["false_instance_share"] = self.presence.false_instance_share
        value["presence"]["missed_share"] = self.presence.missed_share
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EvaluationReport:
        """Read what :meth:`to_json` made."""
        labels = [
            label | {"masks": MaskFigures(**label["masks"]), "presence": PresenceFigures(**label["presence"])}
            for label in value["labels"]
        ]
        derived = ("false_instance_share", "missed_share")
        presence = {name: number for name, number in value["presence"].items() if name not in derived}
        return cls(
            **{
                **value,
                "labels_not_in_ground_truth": tuple(value["labels_not_in_ground_truth"]),
                "categories_not_in_run": tuple(value["categories_not_in_run"]),
                "masks": MaskFigures(**value["masks"]),
                "presence": PresenceFigures(**presence),
                "labels": tuple(LabelFigures(**label) for label in labels),
            }
        )

    def to_text(self) -> str:
        """A table for a terminal or a log."""
        remarks = self.remarks()
        lines = [*self._headline(), "", *_label_table(self.labels), *([""] if remarks else []), *remarks]
        return "\n".join(lines) + "\n"

    def _headline(self) -> list[str]:
        masks, presence = self.masks, self.presence
        return [
            f"{count_of(self.images, 'image')}, {count_of(len(self.labels), 'label')}, "
            f"{count_of(self.objects, 'object')}, {count_of(self.detections, 'instance')} above the floor",
            "",
            f"mask AP      {_share(masks.ap)}    AP50 {_share(masks.ap50)}    AP75 {_share(masks.ap75)}    "
            f"AR{self.max_detections} {_share(masks.ar)}",
            f"by size      small {_share(masks.ap_small)}    medium {_share(masks.ap_medium)}    "
            f"large {_share(masks.ap_large)}",
            f"presence     accuracy {_share(presence.accuracy)} over {presence.pairs:,} image-label pairs "
            f"({presence.present_pairs:,} present, {presence.absent_pairs:,} absent)",
            f"at score {self.score_threshold:g}: instances where there should be none in "
            f"{_percent(presence.false_instance_share)} of absent pairs, nothing found in "
            f"{_percent(presence.missed_share)} of present pairs",
        ]

    def remarks(self) -> list[str]:
        """What was left out of the figures or counts against them, one sentence each."""
        remarks = []
        if self.failed_images:
            remarks.append(
                f"{count_of(self.failed_images, 'image')} could not be labeled: objects there count as missed."
            )
        if self.images_not_in_run:
            remarks.append(
                f"{count_of(self.images_not_in_run, 'image')} of the ground truth not in the run: not measured."
            )
        if self.images_not_in_ground_truth:
            remarks.append(
                f"{count_of(self.images_not_in_ground_truth, 'image')} of the run without ground truth: not measured."
            )
        if self.labels_not_in_ground_truth:
            remarks.append("Labels without ground truth: " + ", ".join(self.labels_not_in_ground_truth))
        if self.categories_not_in_run:
            remarks.append("Categories without a label: " + ", ".join(self.categories_not_in_run))
        return remarks


def save_evaluation(report: EvaluationReport, store: RunStore) -> str:
    """Write exports/evaluation.json into the run directory, replacing an earlier one; returns its location."""
    write_json(store, EVALUATION_PATH, report.to_json())
    return store.location(EVALUATION_PATH)


def load_evaluation(store: RunStore) -> EvaluationReport | None:
    """The evaluation saved in a run directory; None when there is none."""
    value = read_json(store, EVALUATION_PATH)
    return None if value is None else EvaluationReport.from_json(value)


def _label_table(labels: tuple[LabelFigures, ...]) -> list[str]:
    header = ("label", "objects", "AP", "AP50", "AP75", "presence", "false")
    rows = [
        (
            label.name,
            f"{label.objects:,}",
            _share(label.masks.ap),
            _share(label.masks.ap50),
            _share(label.masks.ap75),
            _share(label.presence.accuracy),
            _percent(label.presence.false_instance_share),
        )
        for label in labels
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, tuple("-" * width for width in widths), *rows)
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
