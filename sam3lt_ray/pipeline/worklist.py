"""What a start has to do: gaps, sorted by what their images were not asked, and rows to make again.

Images that lack the same labels are asked for them together: a new shard is read once for the whole vocabulary, an old
one once for the labels that are new. Each such set of labels is a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Final, TypeAlias

from sam3lt_ray.labels.footer import read_counts
from sam3lt_ray.labels.joined_counts import failed_rows
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.pipeline.collector import collector_paused
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.pipeline.summary import ShardTally
from sam3lt_ray.records import Shard
from sam3lt_ray.stages.read import Retry, ShardWork
from sam3lt_ray.storage.coverage import Coverage, Gap
from sam3lt_ray.storage.layers import Layer, ensure_layer, find_layer, layer_number, read_layers
from sam3lt_ray.storage.ledger import UnitFile
from sam3lt_ray.vocabulary.labels import Label

_CHUNK: Final = 1_000  # shards whose footers are read at a time

# One for all shards that lack everything, of which there may be a million.
_WHOLE: Final = ((0, None),)

# Labels that were not asked -> the shards with such images, and where in them.
Missing: TypeAlias = dict[frozenset[int], list[tuple[Shard, list[Gap]]]]


@dataclass(frozen=True, slots=True)
class LayerWork:
    """What is to do in one layer; or which of its rows are to be made again.

    Attributes:
        layer: The layer.
        label_ids: Labels that its gaps are about.
        shards: What is to do on each shard that is not done.
    """

    layer: Layer
    label_ids: frozenset[int]
    shards: tuple[ShardWork, ...]

    def remaining(self, coverage: Coverage) -> LayerWork:
        """What of it is still to do."""
        shards = []
        for work in self.shards:
            if work.retries:
                left = tuple(retry for retry in work.retries if not coverage.has_unit(_retried(retry)))
                again = replace(work, retries=left) if left else None
            else:
                gaps = [gap for gap in coverage.gaps(work.shard) if gap.label_ids == self.label_ids]
                again = _shard_work(work.shard, self.layer.name, gaps, coverage) if gaps else None
            if again is not None:
                shards.append(again)
        return replace(self, shards=tuple(shards))


@collector_paused()
def find_missing(prepared: PreparedRun, coverage: Coverage) -> Missing:
    """What is missing in the run; complete shards are not in it, nor are vanished ones."""
    vanished = set(prepared.snapshot.vanished)
    missing: Missing = {}
    for shard in prepared.shards:
        if shard.name in vanished:
            continue
        by_labels: dict[frozenset[int], list[Gap]] = {}
        for gap in coverage.gaps(shard):
            by_labels.setdefault(gap.label_ids, []).append(gap)
        for label_ids, gaps in by_labels.items():
            missing.setdefault(label_ids, []).append((shard, gaps))
    return missing


def num_shards(missing: Missing) -> int:
    """Shards with something to ask; one that lacks different labels in different places counts once."""
    return len({shard.name for shards in missing.values() for shard, _ in shards})


def tally_shards(prepared: PreparedRun, open_before: int, coverage: Coverage | None) -> ShardTally:
    """What became of the shards.

    Args:
        prepared: The run.
        open_before: Shards with something to ask when the start began.
        coverage: What is committed now; None: nobody has looked.
    """
    snapshot = prepared.snapshot
    still_open = None if coverage is None else num_shards(find_missing(prepared, coverage))
    return ShardTally(
        total=len(snapshot.shards),
        new=len(snapshot.new),
        changed=len(snapshot.changed),
        vanished=len(snapshot.vanished),
        open_before=open_before,
        open=still_open,
    )


@collector_paused()
def plan_gaps(prepared: PreparedRun, coverage: Coverage, missing: Missing) -> list[LayerWork]:
    """Put what is missing into layers, oldest first; creates the layers that are not there yet.

    The caller holds the lease and has written run.json.
    """
    store, layers = prepared.store, read_layers(prepared.store)
    planned = []
    for label_ids, shards in missing.items():
        labels = labels_of(prepared, label_ids)
        layers = ensure_layer(store, layers, labels)
        layer = find_layer(layers, labels)
        assert layer is not None
        work = tuple(_shard_work(shard, layer.name, gaps, coverage) for shard, gaps in shards)
        planned.append(LayerWork(layer, label_ids, work))
    return sorted(planned, key=lambda work: layer_number(work.layer.name))


def plan_retries(prepared: PreparedRun, coverage: Coverage) -> list[LayerWork]:
    """Rows with an error, layer by layer; opens the footers of all units and the rows of those that have errors."""
    reader = RunReader(prepared.store)
    vanished = set(prepared.snapshot.vanished)
    layers = {layer.name: layer for layer in coverage.layers}
    work: dict[str, list[ShardWork]] = {}
    shards = [shard for shard in prepared.shards if shard.name not in vanished]
    for first in range(0, len(shards), _CHUNK):
        units = [(shard, unit) for shard in shards[first : first + _CHUNK] for unit in coverage.wanted_units(shard)]
        counts = read_counts(prepared.store, [unit.path for _, unit in units])
        with_errors = [pair for pair, of_unit in zip(units, counts, strict=True) if of_unit.errors]
        for shard, of_shard in groupby(with_errors, key=itemgetter(0)):
            by_layer: dict[str, list[Retry]] = {}
            for _, unit in of_shard:
                if failed := failed_rows(reader, unit):
                    by_layer.setdefault(unit.layer, []).append(Retry(unit, frozenset(failed)))
            committed = tuple(coverage.units(shard))
            for layer, retries in by_layer.items():
                item = ShardWork(shard, layer, committed=committed, retries=tuple(retries))
                work.setdefault(layer, []).append(item)
    names = sorted(work, key=layer_number)
    return [LayerWork(layers[name], coverage.answers[name], tuple(work[name])) for name in names]


def labels_of(prepared: PreparedRun, label_ids: Iterable[int]) -> tuple[Label, ...]:
    """Labels of the vocabulary in its order."""
    wanted = set(label_ids)
    return tuple(label for label in prepared.vocabulary.labels if label.id in wanted)


def num_rows(work: Sequence[LayerWork]) -> int:
    """Rows that are to be made again."""
    return sum(len(retry.indexes) for layer in work for shard in layer.shards for retry in shard.retries)


def _shard_work(shard: Shard, layer: str, gaps: Sequence[Gap], coverage: Coverage) -> ShardWork:
    spans = tuple((gap.first, gap.end) for gap in gaps)
    if spans == _WHOLE:
        return ShardWork(shard, layer, _WHOLE)
    last = spans[-1][0]
    # A shard that is read from its beginning needs to know nothing about what is committed of it.
    before = tuple(unit for unit in coverage.units(shard) if unit.range.end <= last) if last > 0 else ()
    return ShardWork(shard, layer, spans, before)


def _retried(retry: Retry) -> UnitFile:
    return replace(retry.unit, num_retries=retry.unit.num_retries + 1)
