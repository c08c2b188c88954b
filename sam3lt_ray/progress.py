"""What a run tells while it goes on, and how it is shown: a live line in a terminal, plain or JSON lines in a log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from sam3lt_ray.durations import format_duration
from sam3lt_ray.logs import LogFormat
from sam3lt_ray.terminal import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOG_INTERVAL_S = 10.0


class ProgressListener(Protocol):
    """Receives what happens in a run. All calls come from one thread."""

    def plan_known(
        self, *, total_images: int | None, total_units: int | None, done_images: int = 0, done_units: int = 0
    ) -> None:
        """The plan is made; called again when totals become known or better known.

        Args:
            total_images: Images of the whole input, finished ones included; None where the format cannot tell.
            total_units: Units of the whole input; None where the format cannot tell.
            done_images: Images that earlier starts of this run have labeled.
            done_units: Units that earlier starts of this run have committed.
        """

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        """One more unit is committed.

        Args:
            images: Rows in the unit, error rows included.
            errors: Error rows among them.
            instances: Instances stored in the unit.
            busy_share: Share of the last minute the devices worked; None where nobody knows.
        """

    def message(self, text: str) -> None:
        """Something a person wants to know: a new pass, a retried node."""

    def finish(self) -> None:
        """The run is over, in whatever way. May be called more than once."""


@dataclass
class Tally:
    """Counts of a run and the rate of this start of it."""

    clock: Callable[[], float] = time.monotonic
    total_images: int | None = None
    total_units: int | None = None
    done_images: int = 0
    done_units: int = 0
    errors: int = 0
    instances: int = 0
    busy_share: float | None = None
    _images_here: int = 0
    _started_s: float | None = field(default=None)

    def plan(self, total_images: int | None, total_units: int | None, done_images: int, done_units: int) -> None:
        """Take over what the plan says; ``done_*`` counts earlier starts only, so what was done here is added."""
        if self._started_s is None:
            self._started_s = self.clock()
            self.done_images, self.done_units = done_images, done_units
        self.total_images, self.total_units = total_images, total_units

    def add(self, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        """Count one unit; arguments as in :meth:`ProgressListener.unit_done`."""
        if self._started_s is None:
            self._started_s = self.clock()
        self.done_images += images
        self.done_units += 1
        self.errors += errors
        self.instances += instances
        self._images_here += images
        self.busy_share = busy_share

    @property
    def images_per_s(self) -> float | None:
        """Images per second since the plan was known; None before the first unit."""
        if self._started_s is None or not self._images_here:
            return None
        elapsed_s = self.clock() - self._started_s
        return self._images_here / elapsed_s if elapsed_s > 0 else None

    @property
    def remaining_s(self) -> float | None:
        """Seconds left at the present rate; None where total or rate is unknown."""
        rate = self.images_per_s
        if rate is None or self.total_images is None:
            return None
        return max(0, self.total_images - self.done_images) / rate

    def to_json(self) -> dict[str, float | int | None]:
        """The counts, by name."""
        return {
            "images_done": self.done_images,
            "images_total": self.total_images,
            "units_done": self.done_units,
            "images_per_s": self.images_per_s,
            "remaining_s": self.remaining_s,
            "instances": self.instances,
            "errors": self.errors,
            "busy_share": self.busy_share,
        }

    def describe(self) -> str:
        """The counts in one line."""
        of_total = "" if self.total_images is None else f" of {self.total_images:,}"
        parts = [f"{self.done_images:,}{of_total} images"]
        if self.images_per_s is not None:
            parts.append(f"{self.images_per_s:.1f} images/s")
        if self.remaining_s is not None:
            parts.append(f"{format_duration(self.remaining_s)} left")
        parts.append(f"{self.instances:,} instances")
        parts.append(f"{self.errors:,} {'error' if self.errors == 1 else 'errors'}")
        if self.busy_share is not None:
            parts.append(f"devices {100 * self.busy_share:.0f} % busy")
        return ", ".join(parts)


class LogProgress:
    """One plain line every few seconds: for logs and pipes.

    Args:
        stream: Where the lines go; None: standard error.
        interval_s: Least seconds between two lines of counts. Messages and the last line always appear.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        interval_s: float = LOG_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._interval_s = interval_s
        self._clock = clock
        self._tally = Tally(clock=clock)
        self._last_line_s = clock()
        self._untold = False

    def plan_known(
        self, *, total_images: int | None, total_units: int | None, done_images: int = 0, done_units: int = 0
    ) -> None:
        """See :class:`ProgressListener`."""
        self._tally.plan(total_images, total_units, done_images, done_units)

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        """See :class:`ProgressListener`."""
        self._tally.add(images, errors, instances, busy_share)
        self._untold = True
        if self._clock() - self._last_line_s >= self._interval_s:
            self._write_tally()

    def message(self, text: str) -> None:
        """See :class:`ProgressListener`."""
        print(printable(text), file=self._stream, flush=True)

    def finish(self) -> None:
        """See :class:`ProgressListener`."""
        if self._untold:
            self._write_tally()

    def _write_tally(self) -> None:
        print(self._note_written().describe(), file=self._stream, flush=True)

    def _note_written(self) -> Tally:
        self._last_line_s = self._clock()
        self._untold = False
        return self._tally


class JsonProgress(LogProgress):
    """The same for machines: one JSON object per line, with ``time``, ``run``, ``event`` and, for counts, the numbers.

    Args:
        run: The run's location.
        stream: Where the lines go; None: standard error.
        interval_s: Least seconds between two lines of counts.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run: str,
        stream: TextIO | None = None,
        *,
        interval_s: float = LOG_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream, interval_s=interval_s, clock=clock)
        self._run = run

    def message(self, text: str) -> None:
        """See :class:`ProgressListener`."""
        self._write({"event": "message", "message": text})

    def _write_tally(self) -> None:
        tally = self._note_written()
        self._write({"event": "progress", **tally.to_json()})

    def _write(self, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"time": now, "run": self._run, **fields}, ensure_ascii=False), file=self._stream, flush=True)


class TerminalProgress:
    """A live bar with images, rate, time left and errors; messages scroll by above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._tally = Tally()
        self._task: TaskID | None = None
        self._progress: Progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=False,
        )

    def plan_known(
        self, *, total_images: int | None, total_units: int | None, done_images: int = 0, done_units: int = 0
    ) -> None:
        """See :class:`ProgressListener`."""
        self._tally.plan(total_images, total_units, done_images, done_units)
        self._show()

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        """See :class:`ProgressListener`."""
        self._tally.add(images, errors, instances, busy_share)
        self._show()

    def message(self, text: str) -> None:
        """See :class:`ProgressListener`."""
        self._progress.console.print(printable(text), markup=False, highlight=False)

    def finish(self) -> None:
        """See :class:`ProgressListener`."""
        self._progress.stop()

    def _show(self) -> None:
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=None)
        self._progress.update(
            self._task,
            total=self._tally.total_images,
            completed=self._tally.done_images,
            description=self._tally.describe(),
        )


class SilentProgress:
    """Tells nothing: for use from Python."""

    def plan_known(
        self, *, total_images: int | None, total_units: int | None, done_images: int = 0, done_units: int = 0
    ) -> None:
        """See :class:`ProgressListener`."""

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        """See :class:`ProgressListener`."""

    def message(self, text: str) -> None:
        """See :class:`ProgressListener`."""

    def finish(self) -> None:
        """See :class:`ProgressListener`."""


def progress_for_stderr(run: str, log_format: LogFormat = "text") -> ProgressListener:
    """The live bar where standard error is a terminal, plain lines where it is not; or JSON lines.

    Args:
        run: The run's location.
        log_format: "json" where machines read it.
    """
    if log_format == "json":
        return JsonProgress(run)
    return TerminalProgress() if sys.stderr.isatty() else LogProgress()
