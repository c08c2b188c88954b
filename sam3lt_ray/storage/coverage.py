"""What has been asked of which images, over all layers of a run; and so what is still to be asked.

A run is done when every image has been asked every label of the vocabulary with the label's present prompts, in
whatever layers. Everything here follows from the names of files, layer by layer, and from what each layer asked.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from sam3lt_ray.records import Shard
from sam3lt_ray.storage.layers import Layer, Questions, generation_of, layer_number
from sam3lt_ray.storage.ledger import LABELS_PREFIX, Ledger, UnitFile, first_edition, parse_unit_path, shard_directory
from sam3lt_ray.storage.store import RunStore


@dataclass(frozen=True, slots=True)
class Gap:
    """Images of a shard that were not asked everything.

    Attributes:
        first: Index of the first one.
        end: Index after the last one; None: to the shard's end, which is not known.
        label_ids: What they were not asked.
    """

    first: int
    end: int | None
    label_ids: frozenset[int]


@dataclass(slots=True)
class Coverage:
    """Ledgers of all layers, and what is wanted of the run.

    Attributes:
        layers: The run's layers, oldest first.
        wanted: The vocabulary: label id -> prompts.
        editions: First directory -> present directory of the shards that changed.
        answers: Layer -> labels of ``wanted`` that it answers; layers that answer none are not in it.
        foreign_paths: Units of another run, such as one that was discarded and whose workers still committed; nobody
            reads them.
    """

    layers: Sequence[Layer]
    wanted: Questions
    editions: Mapping[str, str] = field(default_factory=dict)
    answers: dict[str, frozenset[int]] = field(init=False)
    foreign_paths: list[str] = field(init=False, default_factory=list)
    _ledgers: dict[str, Ledger] = field(init=False)
    _everything: Gap = field(init=False)

    def __post_init__(self) -> None:
        found = {layer.name: layer.answers(self.wanted) for layer in self.layers}
        self.answers = {name: label_ids for name, label_ids in found.items() if label_ids}
        self._ledgers = {layer.name: Ledger(layer.name) for layer in self.layers}
        # One for all shards that lack everything: there may be a million of them.
        self._everything = Gap(0, None, frozenset(self.wanted))

    def list_layers(self, store: RunStore) -> Coverage:
        """Look at what is committed now.

        Raises:
            RunMismatchError: Units of one layer overlap.
        """
        return self.add_paths(stored.path for stored in store.list(LABELS_PREFIX))

    def add_paths(self, paths: Iterable[str]) -> Coverage:
        """The same from a listing of ``labels/`` that is at hand."""
        generation = generation_of(self.layers[0].name) if self.layers else None
        by_layer: dict[str, list[str]] = {name: [] for name in self._ledgers}
        self.foreign_paths = []
        for path in paths:
            name = path.removeprefix(f"{LABELS_PREFIX}/").partition("/")[0]
            if name in by_layer:
                by_layer[name].append(path)
            elif generation is not None and generation_of(name) != generation and parse_unit_path(path) is not None:
                self.foreign_paths.append(path)
        for name in self._ledgers:
            self._ledgers[name] = Ledger.from_paths(name, by_layer.pop(name))
        return self

    def gaps(self, shard: Shard) -> list[Gap]:
        """What is still to be asked of a shard's images, in order."""
        shard_dir = shard_directory(shard.name, shard.edition)
        whole = frozenset[int]().union(*(self.answers[name] for name in self._complete_layers(shard_dir)))
        if whole >= self.wanted.keys():
            return []
        units = [(name, unit) for name in self._ledgers for unit in self._ledgers[name].units(shard_dir)]
        if not units:
            return [self._everything]
        end = min((unit.end for _, unit in units if unit.is_last), default=None)
        points = sorted({0, *(unit.first for _, unit in units), *(unit.end for _, unit in units)})
        asked_at: dict[int, set[int]] = {point: set() for point in points}
        for name, unit in units:
            for point in points[bisect_left(points, unit.first) : bisect_left(points, unit.end)]:
                asked_at[point] |= self.answers.get(name, frozenset())
        gaps = [Gap(a, b, frozenset(self.wanted.keys() - asked_at[a])) for a, b in pairwise(points)]
        if end is None:
            gaps.append(Gap(points[-1], None, frozenset(self.wanted)))
        return _joined(gap for gap in gaps if gap.label_ids)

    def units(self, shard: Shard) -> list[UnitFile]:
        """Committed units that hold the shard's images, whatever they were asked; in order, none over another."""
        shard_dir = shard_directory(shard.name, shard.edition)
        units = [unit for ledger in self._ledgers.values() for unit in ledger.unit_files(shard_dir)]
        chosen: list[UnitFile] = []
        for unit in sorted(units, key=lambda unit: (unit.range.first, unit.layer)):
            if not chosen or unit.range.first >= chosen[-1].range.end:
                chosen.append(unit)
        return chosen

    def wanted_units(self, shard: Shard) -> list[UnitFile]:
        """Committed units of the shard in layers with labels that are wanted, in order."""
        return self._wanted_units(shard_directory(shard.name, shard.edition))

    @property
    def num_units(self) -> int:
        """Committed units of all layers, in whatever edition."""
        return sum(ledger.num_units for ledger in self._ledgers.values())

    @property
    def num_wanted_units(self) -> int:
        """As many as :meth:`iter_units` yields, without making any of them: there may be millions."""
        ledgers = [self._ledgers[name] for name in self.answers]
        return sum(
            len(ledger.units(shard_dir))
            for ledger in ledgers
            for shard_dir in ledger.shard_dirs()
            if self._is_present(shard_dir)
        )

    def num_images(self, shard: Shard) -> int:
        """Images of the shard that have a row."""
        return sum(unit.range.count for unit in self.units(shard))

    def num_done(self, shard: Shard) -> int:
        """Images of the shard that have a row and were asked everything that is wanted."""
        return count_done(self.gaps(shard), self.units(shard))

    def iter_units(self) -> Iterator[UnitFile]:
        """Committed units with labels that are wanted: by shard directory, position and layer."""
        shard_dirs = {shard_dir for name in self.answers for shard_dir in self._ledgers[name].shard_dirs()}
        for shard_dir in sorted(shard_dirs):
            if self._is_present(shard_dir):
                yield from self._wanted_units(shard_dir)

    def all_paths(self) -> Iterator[str]:
        """Every committed file of a present content, in whatever layer."""
        for ledger in self._ledgers.values():
            for shard_dir in ledger.shard_dirs():
                if self._is_present(shard_dir):
                    for unit in ledger.unit_files(shard_dir):
                        yield from unit.paths

    def is_asked_twice(self, units: Iterable[UnitFile]) -> bool:
        """Whether two of a shard's units ask the same images for the same label.

        Nobody plans that, but two drivers at once with different vocabularies can do it.
        """
        earlier: list[UnitFile] = []
        for unit in sorted(units, key=lambda unit: unit.range.first):
            earlier = [other for other in earlier if other.range.end > unit.range.first]
            if any(self.answers[other.layer] & self.answers[unit.layer] for other in earlier):
                return True
            earlier.append(unit)
        return False

    def outdated_units(self) -> Iterator[UnitFile]:
        """Units that were made from a content which their shard no longer has."""
        for ledger in self._ledgers.values() if self.editions else ():
            for shard_dir in sorted(ledger.shard_dirs()):
                if not self._is_present(shard_dir):
                    yield from ledger.unit_files(shard_dir)

    def has_unit(self, unit: UnitFile) -> bool:
        """Whether the unit is committed with as many retries as it says."""
        found = self._ledgers[unit.layer].unit_files(unit.shard_dir)
        return any(other.range == unit.range and other.num_retries >= unit.num_retries for other in found)

    def _wanted_units(self, shard_dir: str) -> list[UnitFile]:
        units = [unit for name in self.answers for unit in self._ledgers[name].unit_files(shard_dir)]
        return sorted(units, key=lambda unit: (unit.range.first, layer_number(unit.layer)))

    def _complete_layers(self, shard_dir: str) -> Iterator[str]:
        return (name for name in self.answers if self._ledgers[name].is_complete(shard_dir))

    def _is_present(self, shard_dir: str) -> bool:
        first = first_edition(shard_dir)
        return self.editions.get(first, first) == shard_dir


def count_done(gaps: Iterable[Gap], units: Iterable[UnitFile]) -> int:
    """Images of a shard that have a row and are in no gap.

    Args:
        gaps: The shard's (:meth:`Coverage.gaps`).
        units: The shard's (:meth:`Coverage.units`).
    """
    spans = [(gap.first, math.inf if gap.end is None else gap.end) for gap in gaps]
    done = 0.0
    for unit in units:
        first, end = unit.range.first, unit.range.end
        done += end - first - sum(max(0, min(end, gap_end) - max(first, gap_first)) for gap_first, gap_end in spans)
    return int(done)


def _joined(gaps: Iterable[Gap]) -> list[Gap]:
    """Neighbours that miss the same become one."""
    joined: list[Gap] = []
    for gap in gaps:
        if joined and joined[-1].end == gap.first and joined[-1].label_ids == gap.label_ids:
            joined[-1] = Gap(joined[-1].first, gap.end, gap.label_ids)
        else:
            joined.append(gap)
    return joined
