"""What a run tells while it goes on, and how it is shown: a live line in a terminal, plain or JSON lines in a log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from sam3lt_ray.logs import LogFormat
from sam3lt_ray.progress_tally import Tally
from sam3lt_ray.terminal import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOG_INTERVAL_S = 10.0


class ProgressListener(Protocol):
    """Receives what happens in a run. All calls come from one thread."""

    def plan_known(
        self, *, total_images: int | None, is_estimate: bool = False, done_images: int = 0, done_units: int = 0
    ) -> None:
        """The plan is made; called again when totals become known or better known.

        Args:
            total_images: Images there will be when this start has done all it is to do, finished ones included; None
                as long as nothing is known to guess from.
            is_estimate: The number is guessed from bytes.
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
        self._stream = stream
        self._interval_s = interval_s
        self._clock = clock
        self._tally = Tally(clock=clock)
        self._last_line_s = clock()
        self._untold = False

    def plan_known(
        self, *, total_images: int | None, is_estimate: bool = False, done_images: int = 0, done_units: int = 0
    ) -> None:
        """See :class:`ProgressListener`."""
        self._tally.plan(total_images, done_images, done_units, is_estimate=is_estimate)

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        """See :class:`ProgressListener`."""
        self._tally.add(images, errors, instances, busy_share)
        self._untold = True
        if self._clock() - self._last_line_s >= self._interval_s:
            self._write_tally()

    def message(self, text: str) -> None:
        """See :class:`ProgressListener`."""
        self._write_line(printable(text))

    def finish(self) -> None:
        """See :class:`ProgressListener`."""
        if self._untold:
            self._write_tally()

    def _write_tally(self) -> None:
        self._write_line(self._note_written().describe())

    def _write_line(self, line: str) -> None:
        # The present standard error: beside Ray, what was it before goes nowhere (pipeline/native_stderr.py).
        print(line, file=sys.stderr if self._stream is None else self._stream, flush=True)

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
        self._write_line(json.dumps({"time": now, "run": self._run, **fields}, ensure_ascii=False))


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
        self, *, total_images: int | None, is_estimate: bool = False, done_images: int = 0, done_units: int = 0
    ) -> None:
        """See :class:`ProgressListener`."""
        self._tally.plan(total_images, done_images, done_units, is_estimate=is_estimate)
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
        self, *, total_images: int | None, is_estimate: bool = False, done_images: int = 0, done_units: int = 0
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
