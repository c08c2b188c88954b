"""What is still to do on which shard, kept up as units are committed: shards that are open, images that are ahead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from sam3lt_ray.labels.images_ahead import ImagesAhead
from sam3lt_ray.pipeline.actors import UnitOutcome
from sam3lt_ray.records import UnitRange
from sam3lt_ray.stages.read import ShardWork
from sam3lt_ray.storage.ledger import parse_unit_path

_Gaps: TypeAlias = Sequence[tuple[int, int | None]]


class OpenShards:
    """Which shards are still open, as units are committed.

    Args:
        work: What is to do, of all layers; all other shards are final.
        num_shards: Shards of the run.
        ahead: Told what every unit means for the number of images.
    """

    def __init__(self, work: Iterable[ShardWork], num_shards: int, ahead: ImagesAhead) -> None:
        # By layer and shard. There may be a million: nothing is made for a shard before its first unit.
        self._left: dict[str, dict[str, ShardWork]] = {}
        for item in work:
            self._left.setdefault(item.layer, {})[item.shard.name] = item
        self._ahead = ahead
        self._units: dict[tuple[str, str], set[UnitRange]] = {}
        # Asked at every unit, so it is kept, not counted anew.
        layers = list(self._left.values())
        self._num_open = sum(
            not any(shard in earlier for earlier in layers[:number])
            for number, of_layer in enumerate(layers)
            for shard in of_layer
        )
        self._num_shards = num_shards

    @property
    def num_open(self) -> int:
        """Shards that lack rows."""
        return self._num_open

    @property
    def num_final(self) -> int:
        """Shards whose every image has all its rows."""
        return self._num_shards - self.num_open

    def add(self, outcome: UnitOutcome) -> None:
        """A unit of a shard is committed."""
        unit = parse_unit_path(outcome.path)
        if unit is None or outcome.shard not in self._left.get(unit.layer, ()):
            return
        work = self._left[unit.layer][outcome.shard]
        units = self._units.setdefault((unit.layer, outcome.shard), set())
        if unit.range in units:  # a second driver's
            return
        if work.retries:
            self._ahead.ask_counted(outcome.counts.images)
        else:
            self._ahead.read(unit.range.count, outcome.shard_bytes_per_image)
            self._ask(work, unit.range, units)
        units.add(unit.range)
        if all(_is_filled(first, end, units) for first, end in _gaps(work)):
            del self._left[unit.layer][outcome.shard], self._units[unit.layer, outcome.shard]
            if not any(outcome.shard in of_layer for of_layer in self._left.values()):
                self._num_open -= 1

    def _ask(self, work: ShardWork, unit: UnitRange, earlier: Iterable[UnitRange]) -> None:
        first, end = next(gap for gap in reversed(work.gaps) if gap[0] <= unit.first)  # a unit is read where a gap is
        is_open = end is None and not work.shard.members and not any(other.is_last for other in earlier)
        if is_open and unit.is_last:
            passed = first + sum(other.count for other in earlier if other.first >= first)
            self._ahead.close(work.shard, passed, unit.end)
        if is_open and not unit.is_last:
            self._ahead.ask_of_open(unit.count)
        else:
            self._ahead.ask_counted(unit.count)


def _gaps(work: ShardWork) -> _Gaps:
    return work.gaps or [(retry.unit.range.first, retry.unit.range.end) for retry in work.retries]


def _is_filled(first: int, end: int | None, units: Iterable[UnitRange]) -> bool:
    """Units never overlap and never reach over the end of a gap, so it is enough to count images."""
    inside = [unit for unit in units if unit.first >= first and (end is None or unit.end <= end)]
    last = end if end is not None else next((unit.end for unit in inside if unit.is_last), None)
    return last is not None and sum(unit.count for unit in inside) == last - first
