"""What a run tells Prometheus while it goes on: through ray.util.metrics, counted by the driver.

By the driver, because it alone knows what was committed and what somebody else had committed before, and because a
counter in an actor ends with the actor. Ray exports them from the driver's node, on the port where its own metrics are,
with ``ray_`` in front and, for counters, ``_total`` behind the name.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
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
_SEEN_WINDOW_S: Final = 600.0  # a device that has reported nothing for so long is gone
# Ray forgets a gauge that is not set between its reports, and a unit may well take longer than that. Reports are 10 s
# apart, or what RAY_metrics_report_interval_ms says; never less than a second.
_GAUGE_INTERVAL_S: Final = 1.0


class RunMetrics:
    """The metrics of one start of a run; gauges are set anew, in a thread, until :meth:`close`.

    Args:
        run: The run's location, a tag of all metrics.
        label_names: Name by label id; beyond :data:`MAX_LABELS` they are counted as :data:`OTHER_LABELS`.
        num_actors: How many devices there are to be busy, at least.
        shards: Which are open.
        gauge_interval_s: How often gauges are set anew.
    """

    def __init__(
        self,
        run: str,
        label_names: Mapping[int, str],
        num_actors: int,
        shards: OpenShards,
        *,
        gauge_interval_s: float = _GAUGE_INTERVAL_S,
    ) -> None:
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
        self._halvings = _counter("sam3lt_memory_halvings", "Batches halved for want of memory.", None, run)
        self._bytes_read = _counter(
            "sam3lt_bytes_read", "Compressed bytes of the images of committed units.", None, run
        )
        self._busy_share = _gauge("sam3lt_gpu_busy_fraction", "Share of the last minute the devices worked.", None, run)
        self._shards = _gauge(
            "sam3lt_shards", "Shards by state: open, or final (every image has its row).", "state", run
        )
        self._gauge_interval_s = gauge_interval_s
        self._closed = threading.Event()
        self._show_gauges()
        self._keeper = threading.Thread(target=self._keep_gauges, name="sam3lt-gauges", daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """Set no gauge any more; returns when none is being set."""
        self._closed.set()
        self._keeper.join()

    def add(self, outcome: UnitOutcome) -> float | None:
        """Count a unit that was labeled.

        Returns:
            The share of the last minute the devices worked.
        """
        for part, seconds in outcome.timings.part_seconds.items():
            _increase(self._seconds, seconds, {"part": part})
        _increase(self._halvings, outcome.timings.memory_halvings)
        _increase(self._bytes_read, outcome.num_read_bytes)
        self._busy.add(outcome.timings.busy_s, outcome.actor)
        if outcome.failure is None:
            self._open_shards.add(outcome)
        share = self._show_gauges()
        if outcome.created:
            counts = outcome.counts
            _increase(self._images, counts.images - counts.num_errors, {"status": "ok"})
            _increase(self._images, counts.num_errors, {"status": "error"})
            for label_id, count in counts.instances.items():
                _increase(self._instances, count, {"label": self._label_names.get(label_id, OTHER_LABELS)})
        return share

    def _keep_gauges(self) -> None:
        while not self._closed.wait(self._gauge_interval_s):
            self._show_gauges()

    def _show_gauges(self) -> float | None:
        share = self._busy.share()
        if share is not None:
            self._busy_share.set(share)
        self._shards.set(self._open_shards.num_open, {"state": "open"})
        self._shards.set(self._open_shards.num_final, {"state": "final"})
        return share


class BusyShare:
    """How much of the time devices work, over the last minute or so. May be asked in one thread and told in another.

    Args:
        num_devices: Devices that could work, at least; a pool may grow.
        clock: Monotonic seconds.
    """

    def __init__(self, num_devices: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_devices = max(1, num_devices)
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: deque[tuple[float, float]] = deque([(clock(), 0.0)])
        self._last_seen: dict[str, float] = {}

    def add(self, busy_s: float, device: str) -> None:
        """What a device has worked since its last report."""
        with self._lock:
            now = self._clock()
            self._reports.append((now, busy_s))
            self._last_seen[device] = now
            while len(self._reports) > 2 and self._reports[1][0] < now - _BUSY_WINDOW_S:
                self._reports.popleft()

    def share(self) -> float | None:
        """The share, in [0, 1]; None before the first report.

        Work is reported when a unit is done: a silence that is no longer than others before it, or than the window, is
        left out, and the rest of a longer one counts as idle.
        """
        with self._lock:
            reports = list(self._reports)
            last_seen = list(self._last_seen.values())
        if len(reports) == 1:
            return None
        spans = [(before, after, busy_s) for (before, _), (after, busy_s) in pairwise(reports)]
        usual_s = max(after - before for before, after, _ in spans)
        end = max(reports[-1][0], self._clock() - max(usual_s, _BUSY_WINDOW_S))
        begin = max(reports[0][0], end - _BUSY_WINDOW_S)
        num_seen = sum(seen_s >= end - max(usual_s, _SEEN_WINDOW_S) for seen_s in last_seen)
        num_devices = max(self._num_devices, num_seen)
        worked_s = sum(busy_s * _share_behind(begin, before, after) for before, after, busy_s in spans)
        return min(1.0, worked_s / ((end - begin) * num_devices)) if end > begin else 0.0


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


def _share_behind(moment: float, first: float, last: float) -> float:
    """How much of the time from ``first`` to ``last`` is behind the moment."""
    if first >= moment:
        return 1.0
    return (last - moment) / (last - first) if last > moment else 0.0


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
