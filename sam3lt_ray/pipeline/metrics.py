"""What a run tells Prometheus while it goes on: through ray.util.metrics, counted by the driver.

By the driver, because it alone knows what was committed and what somebody else had committed before, and because a
counter in an actor ends with the actor. Ray exports them from the driver's node, on the port where its own metrics are,
with ``ray_`` in front and, for counters, ``_total`` behind the name.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from ray.util import metrics as prometheus

from sam3lt_ray.pipeline.actors import UnitOutcome
from sam3lt_ray.records import UnitRange
from sam3lt_ray.stages.read import ShardWork
from sam3lt_ray.storage.ledger import parse_unit_path

# A time series for each label of a large vocabulary is more than a metrics store wants.
MAX_LABELS: Final = 100
OTHER_LABELS: Final = "(other)"
_Gaps: TypeAlias = Sequence[tuple[int, int | None]]
_BUSY_WINDOW_S: Final = 60.0


class RunMetrics:
    """The metrics of one start of a run.

    Args:
        run: The run's location, a tag of all metrics.
        label_names: Name by label id; beyond :data:`MAX_LABELS` they are counted as :data:`OTHER_LABELS`.
        num_actors: How many devices there are to be busy.
        shards: Which are open.
    """

    def __init__(self, run: str, label_names: Mapping[int, str], num_actors: int, shards: OpenShards) -> None:
        self._label_names = dict(list(label_names.items())[:MAX_LABELS])
        self._busy = BusyShare(num_actors)
        self._open_shards = shards
        self._images = _counter(
            "sam3lt_images", "Images labeled and committed by this start, by status.", "status", run
        )
        self._instances = _counter("sam3lt_instances", "Instances stored by this start, by label.", "label", run)
        self._seconds = _counter(
            "sam3lt_part_seconds",
            "Seconds by part: decode of all threads together; vision, prompts, masks, runs of the devices.",
            "part",
            run,
        )
        self._halvings = _counter("sam3lt_memory_halvings", "Prompt batches halved for want of memory.", None, run)
        self._bytes_read = _counter(
            "sam3lt_bytes_read", "Compressed bytes of the images of committed units.", None, run
        )
        self._busy_share = _gauge("sam3lt_gpu_busy_fraction", "Share of the last minute the devices worked.", None, run)
        self._shards = _gauge(
            "sam3lt_shards", "Shards by state: open, or final (every image has its row).", "state", run
        )

        self._show_shards()

    def add(self, outcome: UnitOutcome) -> float:
        """Count a unit that was labeled.

        Returns:
            The share of the last minute the devices worked.
        """
        for part, seconds in outcome.timings.part_seconds.items():
            _increase(self._seconds, seconds, {"part": part})
        _increase(self._halvings, outcome.timings.memory_halvings)
        _increase(self._bytes_read, outcome.num_read_bytes)
        share = self._busy.add(outcome.timings.busy_s)
        self._busy_share.set(share)
        if outcome.failure is None:
            self._open_shards.add(outcome)
            self._show_shards()
        if outcome.created:
            counts = outcome.counts
            _increase(self._images, counts.images - counts.num_errors, {"status": "ok"})
            _increase(self._images, counts.num_errors, {"status": "error"})
            for label_id, count in counts.instances.items():
                _increase(self._instances, count, {"label": self._label_names.get(label_id, OTHER_LABELS)})
        return share

    def _show_shards(self) -> None:
        self._shards.set(self._open_shards.num_open, {"state": "open"})
        self._shards.set(self._open_shards.num_final, {"state": "final"})


class BusyShare:
    """How much of the time devices work, over the last minute or so.

    Args:
        num_devices: Devices that could work.
        clock: Monotonic seconds.
    """

    def __init__(self, num_devices: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_devices = max(1, num_devices)
        self._clock = clock
        self._reports: deque[tuple[float, float]] = deque([(clock(), 0.0)])

    def add(self, busy_s: float) -> float:
        """What the devices have worked since the last report; gives the share, in [0, 1]."""
        now = self._clock()
        self._reports.append((now, busy_s))
        while len(self._reports) > 2 and self._reports[1][0] < now - _BUSY_WINDOW_S:
            self._reports.popleft()
        span_s = now - self._reports[0][0]
        worked_s = sum(seconds for _, seconds in list(self._reports)[1:])
        return min(1.0, worked_s / (span_s * self._num_devices)) if span_s > 0 else 0.0


class OpenShards:
    """Which shards are still open, as units are committed.

    Args:
        work: What is to do, of all layers; all other shards are final.
        num_shards: Shards of the run.
    """

    def __init__(self, work: Iterable[ShardWork], num_shards: int) -> None:
        # By layer and shard. There may be a million: nothing is made for a shard before its first unit.
        self._left: dict[str, dict[str, _Gaps]] = {}
        for item in work:
            self._left.setdefault(item.layer, {})[item.shard.name] = _gaps(item)
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
        units = self._units.setdefault((unit.layer, outcome.shard), set())
        units.add(unit.range)
        if all(_is_filled(first, end, units) for first, end in self._left[unit.layer][outcome.shard]):
            del self._left[unit.layer][outcome.shard], self._units[unit.layer, outcome.shard]
            if not any(outcome.shard in of_layer for of_layer in self._left.values()):
                self._num_open -= 1


def _gaps(work: ShardWork) -> _Gaps:
    return work.gaps or [(retry.unit.range.first, retry.unit.range.end) for retry in work.retries]


def _is_filled(first: int, end: int | None, units: Iterable[UnitRange]) -> bool:
    """Units never overlap and never reach over the end of a gap, so it is enough to count images."""
    inside = [unit for unit in units if unit.first >= first and (end is None or unit.end <= end)]
    last = end if end is not None else next((unit.end for unit in inside if unit.is_last), None)
    return last is not None and sum(unit.count for unit in inside) == last - first


def _counter(name: str, description: str, tag: str | None, run: str) -> prometheus.Counter:
    counter = prometheus.Counter(name, description, tag_keys=("run",) if tag is None else ("run", tag))
    counter.set_default_tags({"run": run})
    return counter


def _gauge(name: str, description: str, tag: str | None, run: str) -> prometheus.Gauge:
    gauge = prometheus.Gauge(name, description, tag_keys=("run",) if tag is None else ("run", tag))
    gauge.set_default_tags({"run": run})
    return gauge


def _increase(counter: prometheus.Counter, value: float, tags: dict[str, str] | None = None) -> None:
    if value > 0:  # Ray refuses zero
        counter.inc(value, tags or {})
