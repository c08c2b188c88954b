"""``sam3lt status``: how far a run is, from its directory alone, from any machine, while it runs or afterwards."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from sam3lt_ray.labels.joined_counts import joined_counts
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import questions_of, read_layers
from sam3lt_ray.storage.ledger import LABELS_PREFIX, parse_unit_path
from sam3lt_ray.storage.run_directory import SUMMARY_PATH, VOCABULARY_PATH, read_json, read_run
from sam3lt_ray.storage.snapshot import editions_of, read_snapshot
from sam3lt_ray.storage.store import RunStore, StoredFile

_RECENT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is.

    Attributes:
        shards_done: Shards whose images have all been asked every label of the vocabulary.
        images_done: Images that have a row.
        images_per_s: From the commits of the last ten minutes before the newest one; None with fewer than two.
        last_commit_age_s: Seconds since the newest commit, by the store's clock and this machine's.
        last_summary: run_summary.json of the latest start that came to an end; None when there is none.
    """

    run: str
    fingerprint: str
    shards_total: int
    shards_done: int
    shards_started: int
    units_done: int
    images_done: int
    images_ok: int
    errors: dict[str, int]
    instances: dict[str, int]
    images_per_s: float | None
    last_commit_age_s: float | None
    last_summary: dict[str, Any] | None

    @property
    def is_complete(self) -> bool:
        """Every image of every known shard has been asked every label."""
        return self.shards_done == self.shards_total

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "complete": self.is_complete}

    def to_text(self) -> str:
        """Lines for a person."""
        state = "complete" if self.is_complete else "incomplete"
        lines = [
            f"run        {self.run} ({state})",
            f"shards     {self.shards_done} of {self.shards_total} done, {self.shards_started} started",
            f"images     {self.images_done:,} labeled, {sum(self.errors.values()):,} of them errors",
            f"instances  {sum(self.instances.values()):,}",
        ]
        if self.images_per_s is not None:
            lines.append(f"rate       {self.images_per_s:.1f} images/s")
        if self.last_commit_age_s is not None:
            lines.append(f"newest     unit committed {self.last_commit_age_s:,.0f} s ago")
        lines += [f"error      {kind}: {count:,}" for kind, count in sorted(self.errors.items())]
        if self.last_summary is not None:
            lines.append(f"last end   {self.last_summary['status']}: {self.last_summary['message']}")
        return "\n".join(lines)


def read_run_state(store: RunStore) -> RunState:
    """Read how far a run is; opens the footers of unit files, no rows.

    Raises:
        InputError: There is no run here.
    """
    run = read_run(store)
    reader = RunReader(store)
    labels = reader.vocabulary().labels if store.exists(VOCABULARY_PATH) else ()
    shards = read_snapshot(store)
    files = [item for item in store.list(LABELS_PREFIX) if parse_unit_path(item.path) is not None]
    coverage = Coverage(read_layers(store, run), questions_of(labels), editions_of(shards))
    coverage.add_paths([item.path for item in files])
    counts = joined_counts(reader, coverage)
    done = sum(1 for shard in shards if labels and not coverage.gaps(shard))
    names = {label.id: label.name for label in labels}
    return RunState(
        run=store.uri,
        fingerprint=run["fingerprint"],
        shards_total=len(shards),
        shards_done=done,
        shards_started=sum(1 for shard in shards if coverage.units(shard)),
        units_done=sum(1 for _ in coverage.iter_units()),
        images_done=counts.images,
        images_ok=counts.images - counts.num_errors,
        errors=dict(counts.errors),
        instances={names[label_id]: n for label_id, n in sorted(counts.instances.items())},
        images_per_s=_recent_rate(files),
        last_commit_age_s=max(0.0, time.time() - max(item.modified_s for item in files)) if files else None,
        last_summary=read_json(store, SUMMARY_PATH),
    )


def _recent_rate(files: list[StoredFile]) -> float | None:
    """Images per second over the commits shortly before the newest one."""
    if not files:
        return None
    newest = max(item.modified_s for item in files)
    recent = sorted((item for item in files if item.modified_s > newest - _RECENT_S), key=lambda item: item.modified_s)
    span_s = newest - recent[0].modified_s
    if span_s <= 0:
        return None
    # The oldest of these commits ends the time before the span, so its images are not part of it.
    units = [parse_unit_path(item.path) for item in recent[1:]]
    return sum(unit.range.count for unit in units if unit is not None) / span_s
