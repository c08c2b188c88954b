"""Layers: which labels were asked together, and with which prompts.

The first layer is what ``run.json`` says the run began with; each further one has a file ``layers/<name>.json``. Both
are created once, by one writer, and never changed: what the units of a layer were asked is a fact.

A run that begins where another one was discarded has a *generation* in its ``run.json``, a part of all its layers'
names. Workers of the discarded run may still hold units, and what they commit must never be taken for the new run's.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sam3lt_ray.storage.run_directory import encode_json, read_json, read_run
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label

_GENERATION_KEY: Final = "generation"
_DISCARDED_KEY: Final = "discarded_generations"
LAYERS_PREFIX: Final = "layers"

Questions = Mapping[int, tuple[str, ...]]  # label id -> prompts


@dataclass(frozen=True, slots=True)
class Layer:
    """Labels that were asked together.

    Attributes:
        name: Its directory below ``labels/``: "000", "001", ..., or "000-3f9a2c1b" in a run with a generation.
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


def new_generation(discarded: Mapping[str, Any] | None) -> dict[str, Any]:
    """What run.json says of a run that begins where others have worked before.

    Args:
        discarded: run.json of the run that was discarded for it; None: nobody knows it any more.
    """
    before = [] if discarded is None else [*discarded.get(_DISCARDED_KEY, []), discarded.get(_GENERATION_KEY, "")]
    return {_GENERATION_KEY: uuid.uuid4().hex[:8], _DISCARDED_KEY: before}


def find_discarded(store: RunStore, foreign_paths: Sequence[str]) -> list[str]:
    """Units of runs that somebody wanted to be discarded, among those that are not this run's."""
    if not foreign_paths:
        return []
    discarded = read_run(store).get(_DISCARDED_KEY, [])
    return [path for path in foreign_paths if generation_of(path.split("/")[1]) in discarded]


def layer_number(name: str) -> int:
    """Position of a layer among those of its run, by its name."""
    return int(name.partition("-")[0])


def generation_of(name: str) -> str:
    """The part of a layer's name that all layers of its run share."""
    return name.partition("-")[2]


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
    generation = str(run.get(_GENERATION_KEY, ""))
    layers = [_layer(_name(0, generation), [{"id": label_id, **label} for label_id, label in first.items()])]
    for stored in store.list(LAYERS_PREFIX):
        name = stored.path.removeprefix(f"{LAYERS_PREFIX}/").removesuffix(".json")
        is_ours = name.partition("-")[0].isdigit() and generation_of(name) == generation
        if is_ours and (value := read_json(store, stored.path)) is not None:
            layers.append(_layer(name, value["labels"]))
    return sorted(layers, key=lambda layer: layer_number(layer.name))


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
        latest = known[-1].name
        layer = Layer(_name(layer_number(latest) + 1, generation_of(latest)), tuple(labels))
        if store.create(f"{LAYERS_PREFIX}/{layer.name}.json", encode_json(_to_json(layer))):
            return [*known, layer]
        known = read_layers(store)  # somebody was quicker, or it was us and the answer was lost
    return known


def _name(number: int, generation: str) -> str:
    return f"{number:03d}-{generation}" if generation else f"{number:03d}"


def _to_json(layer: Layer) -> dict[str, Any]:
    return {
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "labels": [{"id": label.id, "name": label.name, "prompts": list(label.prompts)} for label in layer.labels],
    }


def _layer(name: str, labels: Iterable[Mapping[str, Any]]) -> Layer:
    return Layer(name, tuple(Label(int(label["id"]), str(label["name"]), tuple(label["prompts"])) for label in labels))
