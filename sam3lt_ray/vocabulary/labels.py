"""The labels of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Prompt(NamedTuple):
    """One phrase given to the model.

    Attributes:
        label_position: Position of its label in ``Vocabulary.labels``.
        prompt_index: Which of that label's prompts.
        text: The phrase.
    """

    label_position: int
    prompt_index: int
    text: str


@dataclass(frozen=True, slots=True)
class Label:
    """What the user wants to find.

    Attributes:
        id: Number that stands in the label rows and becomes the COCO category id; at least 0.
        name: What people call it; unique in a vocabulary, whatever the case.
        prompts: The phrases given to the model, at least one; their instances are merged.
        threshold: Least score for export; None: the run's threshold.
        supercategory: The COCO field of that name.
    """

    id: int
    name: str
    prompts: tuple[str, ...]
    threshold: float | None = None
    supercategory: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` reads them back."""
        return {
            "id": self.id,
            "name": self.name,
            "prompts": list(self.prompts),
            "threshold": self.threshold,
            "supercategory": self.supercategory,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Label:
        """Read what :meth:`to_json` made; further keys are passed over."""
        return cls(
            id=int(data["id"]),
            name=str(data["name"]),
            prompts=tuple(data["prompts"]),
            threshold=data.get("threshold"),
            supercategory=data.get("supercategory"),
        )


@dataclass(frozen=True)
class Vocabulary:
    """Labels in the order in which they were written.

    Attributes:
        labels: At least one.
        source: Where they were read, for messages.
        names_with_given_id: Labels whose id the user wrote down; the others got theirs from us.
        names_with_given_prompts: Labels whose prompts the user wrote down; the others are asked by their name.
    """

    labels: tuple[Label, ...]
    source: str = field(compare=False)
    names_with_given_id: frozenset[str] = field(default=frozenset(), compare=False)
    names_with_given_prompts: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts, label by label."""
        return [
            Prompt(position, index, text)
            for position, label in enumerate(self.labels)
            for index, text in enumerate(label.prompts)
        ]

    @property
    def label_ids(self) -> list[int]:
        """Ids in the order of ``labels``."""
        return [label.id for label in self.labels]

    def by_id(self, label_id: int) -> Label:
        """The label with an id.

        Raises:
            KeyError: There is none.
        """
        for label in self.labels:
            if label.id == label_id:
                return label
        raise KeyError(label_id)

    def to_json(self) -> dict[str, Any]:
        """Plain values; :meth:`from_json` reads them back."""
        return {
            "source": self.source,
            "labels": [label.to_json() for label in self.labels],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Vocabulary:
        """Read what :meth:`to_json` made. All ids count as given: they were stored."""
        labels = tuple(Label.from_json(entry) for entry in data["labels"])
        names = frozenset(label.name for label in labels)
        return cls(labels, str(data.get("source", "")), names, names)
