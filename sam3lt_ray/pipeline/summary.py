"""``run_summary.json``: what happened, for people, schedulers and the report."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from sam3lt_ray import __version__
from sam3lt_ray.errors import EXIT_DONE, EXIT_FAILED, EXIT_OVER_ERROR_BUDGET, EXIT_RETRY
from sam3lt_ray.labels.joined_counts import joined_counts
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.totals import RunTotals
from sam3lt_ray.pipeline.actors import UnitOutcome
from sam3lt_ray.records import Part
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.run_directory import SUMMARY_PATH, write_json
from sam3lt_ray.storage.store import RunStore

RunStatus = Literal["done", "limited", "interrupted", "incomplete", "over_error_budget", "failed"]
EXIT_CODES: Final[Mapping[RunStatus, int]] = {
    "done": EXIT_DONE,
    "limited": EXIT_DONE,
    "interrupted": EXIT_RETRY,
    "incomplete": EXIT_RETRY,
    "over_error_budget": EXIT_OVER_ERROR_BUDGET,
    "failed": EXIT_FAILED,
}
_PACKAGES: Final = ("ray", "torch", "transformers", "pyarrow", "s3fs", "pillow", "pycocotools", "numpy")
# Units whose counts nobody kept, because their driver was killed or is of an older version: more are left to the
# next starts, and until then the summary has no totals.
_MAX_FOOTER_READS: Final = 20_000
_MAX_FOOTER_READS_IN_HASTE: Final = 100
_NAMED_CAUSES: Final = 10


def package_versions() -> dict[str, str]:
    """Versions of everything that takes part in labeling; the same in run.json and run_summary.json."""
    versions = {"python": platform.python_version(), "sam3lt-ray": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@dataclass(slots=True)
class NodeTally:
    """What one node of the cluster did for units that were committed."""

    units_read: int = 0
    units_labeled: int = 0


@dataclass(slots=True)
class SessionTally:
    """Numbers of one start of a run, collected as units are committed."""

    started_at: float = field(default_factory=time.time)
    shards_open_before: int = 0
    counts: UnitCounts = field(default_factory=UnitCounts)
    refused: UnitCounts = field(default_factory=UnitCounts)  # looked at, and never labeled
    units: int = 0
    units_found_committed: int = 0
    bytes_written: int = 0
    busy_s: float = 0.0
    wait_s: float = 0.0
    memory_halvings: int = 0
    seconds: dict[Part, float] = field(default_factory=dict)
    nodes: dict[str, NodeTally] = field(default_factory=dict)
    actors: set[str] = field(default_factory=set)
    most_actors: int = 0
    passes: int = 0
    first_unit_started_at: float | None = None
    last_unit_at: float | None = None

    def add(self, outcome: UnitOutcome) -> None:
        """Count a unit that has just been committed."""
        now = time.time()
        if self.first_unit_started_at is None:
            self.first_unit_started_at = now - outcome.timings.wall_s
        self.last_unit_at = now
        self.units += 1
        self.busy_s += outcome.timings.busy_s
        self.wait_s += outcome.timings.wait_s
        self.memory_halvings += outcome.timings.memory_halvings
        self.nodes.setdefault(outcome.read_on, NodeTally()).units_read += 1
        self.nodes.setdefault(outcome.labeled_on, NodeTally()).units_labeled += 1
        self.actors.add(outcome.actor)
        self.most_actors = max(self.most_actors, len(self.actors))
        for part, seconds in outcome.timings.part_seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        if not outcome.created:
            self.units_found_committed += 1
            return
        self.counts = self.counts + outcome.counts
        self.bytes_written += outcome.num_bytes

    def begin_pass(self, num_actors: int) -> None:
        """The next pass has actors of its own.

        Args:
            num_actors: How many the cluster can carry of those it begins with; more may join.
        """
        self.passes += 1
        self.actors.clear()
        self.most_actors = max(self.most_actors, num_actors)

    def labeling_s(self) -> float:
        """Seconds from the first unit's start to the last unit's commit; start-up is not in it."""
        if self.first_unit_started_at is None or self.last_unit_at is None:
            return 0.0
        return self.last_unit_at - self.first_unit_started_at


@dataclass(frozen=True, slots=True)
class ShardTally:
    """How many shards there are, and what became of them in one start.

    Attributes:
        total: Shards the run covers, vanished ones among them.
        new: Those that no earlier start knew.
        changed: Those whose content is another one than before.
        vanished: Those that the input no longer holds.
        open_before: Those with something to ask when the start began; 0 means that nothing was missing.
        open: The same at its end; None: nobody has looked.
    """

    total: int
    new: int
    changed: int
    vanished: int
    open_before: int
    open: int | None

    def to_json(self) -> dict[str, int | None]:
        """This start's part of run_summary.json."""
        return {
            "new": self.new,
            "changed": self.changed,
            "vanished": self.vanished,
            "open_before": self.open_before,
            "finished": None if self.open is None else self.open_before - self.open,
        }


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The outcome of one start of a run."""

    status: RunStatus
    message: str
    run_uri: str
    content: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """What a command line returns for it."""
        return EXIT_CODES[self.status]

    def to_json(self) -> dict[str, Any]:
        """The content of run_summary.json."""
        head = {"status": self.status, "exit_code": self.exit_code, "message": self.message, "run": self.run_uri}
        return head | dict(self.content)


def summarize(
    store: RunStore,
    status: RunStatus,
    message: str,
    tally: SessionTally,
    *,
    coverage: Coverage | None,
    totals: RunTotals,
    label_names: Mapping[int, str],
    device: str,
    shards: ShardTally,
    max_error_fraction: float | None,
) -> RunSummary:
    """Add up a session and the run so far, and write run_summary.json; quickly where the session was interrupted.

    Args:
        store: The run directory.
        status: How the session ended.
        message: One sentence for a person.
        tally: This session's numbers.
        coverage: What is committed of the run; None: nobody has looked, and what only a look could tell is null.
        totals: What is known of it without reading; what had to be read is kept there.
        label_names: Name by label id.
        device: "cuda" or "cpu".
        shards: What became of the shards.
        max_error_fraction: Share of error rows, of the run so far, above which "done" becomes "over_error_budget".
    """
    labeling_s = tally.labeling_s()
    device_s = labeling_s * max(1, tally.most_actors)
    total = None if coverage is None else _total(store, coverage, totals, in_haste=status == "interrupted")
    totals.save()
    if status == "done":
        status, message = _judge_errors(total or tally.counts, max_error_fraction, message)
    causes = _commonest_causes(tally.counts + tally.refused)
    if status == "over_error_budget":
        message = _with_causes(message, causes)
    content = {
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "complete": None if shards.open is None else shards.open == 0,
        "shards": shards.total,
        "shards_open": shards.open,
        "units": None if coverage is None else coverage.num_wanted_units,
        "images": None if total is None else _images(total),
        "errors": None if total is None else dict(total.errors),
        "causes": causes,
        "instances": None if total is None else _instances(total, label_names),
        "session": {
            "shards": shards.to_json(),
            "images": _images(tally.counts),
            "units": tally.units,
            "units_found_committed": tally.units_found_committed,
            "passes": tally.passes,
            "bytes_written": tally.bytes_written,
            "wall_s": round(time.time() - tally.started_at, 3),
            "labeling_s": round(labeling_s, 3),
            "images_per_s": round(tally.counts.images / labeling_s, 3) if labeling_s else None,
            "device": device,
            "actors": tally.most_actors,
            "device_busy_share": round(tally.busy_s / device_s, 4) if device_s else None,
            "memory_halvings": tally.memory_halvings,
            "seconds_by_part": {part: round(seconds, 3) for part, seconds in tally.seconds.items()},
            "waiting_for_images_share": round(tally.wait_s / device_s, 4) if device_s else None,
            "nodes": {address: asdict(node) for address, node in sorted(tally.nodes.items())},
        },
        "versions": package_versions(),
    }
    summary = RunSummary(status, without_credentials(message), store.uri, content)
    write_json(store, SUMMARY_PATH, summary.to_json())
    return summary


def _total(store: RunStore, coverage: Coverage, totals: RunTotals, *, in_haste: bool) -> UnitCounts | None:
    max_reads = _MAX_FOOTER_READS_IN_HASTE if in_haste else _MAX_FOOTER_READS
    return joined_counts(RunReader(store), coverage, totals, max_reads=max_reads, may_read_rows=not in_haste)


def _judge_errors(counts: UnitCounts, max_error_fraction: float | None, message: str) -> tuple[RunStatus, str]:
    if max_error_fraction is None or counts.num_errors <= max_error_fraction * counts.images:
        return "done", message
    return "over_error_budget", (
        f"{counts.num_errors:,} of {counts.images:,} images are error rows, more than errors.max_error_fraction "
        f"{max_error_fraction:g} allows."
    )


def _with_causes(message: str, causes: list[dict[str, Any]]) -> str:
    if not causes:
        return f"{message} This start made none of them; `sam3lt status` says why they failed."
    lines = (f"\n  {cause['images']:,} x {cause['kind']}: {cause['cause']}" for cause in causes)
    return f"{message} The commonest causes in this start:{''.join(lines)}"


def _commonest_causes(counts: UnitCounts) -> list[dict[str, Any]]:
    commonest = sorted(counts.causes.items(), key=lambda item: (-item[1], item[0]))[:_NAMED_CAUSES]
    split = ((cause.partition(": "), images) for cause, images in commonest)
    return [{"kind": kind, "cause": cause, "images": images} for (kind, _, cause), images in split]


def _images(counts: UnitCounts) -> dict[str, int]:
    return {"total": counts.images, "ok": counts.images - counts.num_errors, "error": counts.num_errors}


def _instances(counts: UnitCounts, label_names: Mapping[int, str]) -> dict[str, Any]:
    by_label = {label_names.get(label_id, str(label_id)): n for label_id, n in sorted(counts.instances.items())}
    return {"total": counts.num_instances, "by_label": by_label}
