"""What a run tells Prometheus while it goes on: through ray.util.metrics, counted by the driver.

By the driver, because it alone knows what was committed and what somebody else had committed before, and because a
counter in an actor ends with the actor. Ray exports them from the driver's node, on the port where its own metrics are,
with ``ray_`` in front and, for counters, ``_total`` behind the name.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final

import ray
from ray.util import metrics as prometheus

from sam3lt_ray.pipeline.actor_plan import ActorResources
from sam3lt_ray.pipeline.actors import UnitOutcome
from sam3lt_ray.pipeline.open_shards import OpenShards

# A time series for each label of a large vocabulary is more than a metrics store wants.
MAX_LABELS: Final = 100
OTHER_LABELS: Final = "(other)"
_BUSY_WINDOW_S: Final = 60.0
_SEEN_WINDOW_S: Final = 600.0  # a device that has reported nothing for so long is gone
# Ray forgets a gauge that is not set between its reports, and a unit may well take longer than that. Reports are 10 s
# apart, or what RAY_metrics_report_interval_ms says; never less than a second.
_GAUGE_INTERVAL_S: Final = 1.0
# Between two looks at the cluster, whose nodes come and go.
_LOOK_EVERY_S: Final = 5.0


class RunMetrics:
    """The metrics of one start of a run; gauges are set anew, in a thread, until :meth:`close`.

    Args:
        run: The run's location, a tag of all metrics.
        label_names: Name by label id; beyond :data:`MAX_LABELS` they are counted as :data:`OTHER_LABELS`.
        shards: Which are open.
        nodes: Tells the nodes of the cluster, as ``ray.nodes()`` does.
        gauge_interval_s: How often gauges are set anew.
    """

    def __init__(
        self,
        run: str,
        label_names: Mapping[int, str],
        shards: OpenShards,
        *,
        nodes: Callable[[], Sequence[Mapping[str, Any]]] = ray.nodes,
        gauge_interval_s: float = _GAUGE_INTERVAL_S,
    ) -> None:
        self._label_names = dict(list(label_names.items())[:MAX_LABELS])
        self._busy = BusyShare()
        self._nodes = nodes
        self._resources: ActorResources | None = None
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

    def begin_pass(self, resources: ActorResources, num_there: int) -> None:
        """The next pass has actors of its own.

        Args:
            resources: What they are to be.
            num_there: How many of them the cluster can carry as it is now.
        """
        self._resources = resources
        self._busy.expect(resources.num_actors)
        self._busy.note_room(num_there)

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
        looked_s = time.monotonic()
        while not self._closed.wait(self._gauge_interval_s):
            if self._resources is not None and time.monotonic() >= looked_s + _LOOK_EVERY_S:
                looked_s = time.monotonic()
                with suppress(Exception):  # whatever is wrong with Ray, the pass itself will say it
                    self._busy.note_room(self._resources.num_fitting(self._nodes()))
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

    The devices are those that are there: the planned ones, or more when more have reported, but never more than living
    nodes have room for. What an autoscaler has not brought yet, or took away, is not idle.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._num_planned = 1
        self._room: float = math.inf
        self._reports: deque[tuple[float, float]] = deque([(clock(), 0.0)])
        self._last_seen: dict[str, float] = {}

    def expect(self, num_planned: int) -> None:
        """So many devices should work from now on; a pool may grow beyond them."""
        with self._lock:
            self._num_planned = num_planned

    def note_room(self, num_devices: int) -> None:
        """So many devices find room in the cluster as it is now."""
        with self._lock:
            self._room = num_devices

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
            num_planned, room = self._num_planned, self._room
        if len(reports) == 1:
            return None
        spans = [(before, after, busy_s) for (before, _), (after, busy_s) in pairwise(reports)]
        usual_s = max(after - before for before, after, _ in spans)
        end = max(reports[-1][0], self._clock() - max(usual_s, _BUSY_WINDOW_S))
        begin = max(reports[0][0], end - _BUSY_WINDOW_S)
        num_seen = sum(seen_s >= end - max(usual_s, _SEEN_WINDOW_S) for seen_s in last_seen)
        num_devices = max(1, min(room, max(num_planned, num_seen)))
        worked_s = sum(busy_s * _share_behind(begin, before, after) for before, after, busy_s in spans)
        return min(1.0, worked_s / ((end - begin) * num_devices)) if end > begin else 0.0


def _share_behind(moment: float, first: float, last: float) -> float:
    """How much of the time from ``first`` to ``last`` is behind the moment."""
    if first >= moment:
        return 1.0
    return (last - moment) / (last - first) if last > moment else 0.0


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
