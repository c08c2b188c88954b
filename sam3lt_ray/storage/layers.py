"""Layers: which labels were asked together, and with which prompts.

The first layer is what ``run.json`` says the run began with; each further one has a file ``layers/<name>.json``. Both
are created once, by one writer, and never changed: what the units of a layer were asked is a fact.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sam3lt_ray.storage.run_directory import encode_json, read_json, read_run
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label

FIRST_LAYER: Final = "000"
LAYERS_PREFIX: Final = "layers"

Questions = Mapping[int, tuple[str, ...]]  # label id -> prompts


@dataclass(frozen=True, slots=True)
class Layer:
    """Labels that were asked together.

    Attributes:
        name: Its directory below ``labels/``: "000", "001", ...
        labels: In the order of ``presence``; their names are those of the time.
    """

    name: str
    labels: tuple[Label, ...]

    @property
    def questions(self) -> dict[int, tuple[str, ...]]:
        """What was asked."""
        return questions_of(self.labels)

    def answers(self, wanted: Questions) -> frozenset[int]:
        """Labels of ``wanted`` that this layer asked with the very prompts that are wanted."""
        return frozenset(label.id for label in self.labels if wanted.get(label.id) == label.prompts)


def questions_of(labels: Iterable[Label]) -> dict[int, tuple[str, ...]]:
    """What is asked of an image by labels."""
    return {label.id: label.prompts for label in labels}


def read_layers(store: RunStore, run: Mapping[str, Any] | None = None) -> list[Layer]:
    """The layers of a run, oldest first.

    Args:
        store: The run directory.
        run: Its run.json, where it is at hand.

    Raises:
        InputError: There is no run here.
    """
    run = read_run(store) if run is None else run
    first = run.get("identity", {}).get("labels", {})
    layers = [_layer(FIRST_LAYER, [{"id": label_id, **label} for label_id, label in first.items()])]
    for stored in store.list(LAYERS_PREFIX):
        name = stored.path.removeprefix(f"{LAYERS_PREFIX}/").removesuffix(".json")
        if name.isdigit() and (value := read_json(store, stored.path)) is not None:
            layers.append(_layer(name, value["labels"]))
    return sorted(layers, key=lambda layer: int(layer.name))


def find_layer(layers: Sequence[Layer], labels: Sequence[Label]) -> Layer | None:
    """The newest layer that asked exactly these labels with exactly these prompts."""
    wanted = questions_of(labels)
    return next((layer for layer in reversed(layers) if layer.questions == wanted), None)


def ensure_layer(store: RunStore, layers: Sequence[Layer], labels: Sequence[Label]) -> list[Layer]:
    """Make sure that there is a layer for labels.

    Args:
        store: The run directory.
        layers: The run's layers.
        labels: What is to be asked together.

    Returns:
        The run's layers, in which :func:`find_layer` finds it.
    """
    known = list(layers)
    while find_layer(known, labels) is None:
        layer = Layer(f"{int(known[-1].name) + 1:03d}", tuple(labels))
        if store.create(f"{LAYERS_PREFIX}/{layer.name}.json", encode_json(_to_json(layer))):
            return [*known, layer]
        known = read_layers(store)  # somebody was quicker, or it was us and the answer was lost
    return known


def _to_json(layer: Layer) -> dict[str, Any]:
    return {
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "labels": [{"id": label.id, "name": label.name, "prompts": list(label.prompts)} for label in layer.labels],
    }


def _layer(name: str, labels: Iterable[Mapping[str, Any]]) -> Layer:
    return Layer(name, tuple(Label(int(label["id"]), str(label["name"]), tuple(label["prompts"])) for label in labels))
