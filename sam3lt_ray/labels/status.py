"""``sam3lt status``: how far a run is, from its directory alone, from any machine, while it runs or afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from sam3lt_ray.labels.causes import add_up_causes
from sam3lt_ray.labels.footer import read_counts, read_resume_offset
from sam3lt_ray.labels.images_ahead import ImageCount, ImagesAhead
from sam3lt_ray.labels.joined_counts import joined_counts
from sam3lt_ray.labels.pace import (
    Commit,
    SlowShard,
    latest_commits,
    recent_rate,
    slowest_shards,
    usual_interval_s,
)
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.status_text import describe_state
from sam3lt_ray.labels.totals import RunTotals, file_id
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.holder import Holder, read_holder
from sam3lt_ray.storage.layers import questions_of, read_layers
from sam3lt_ray.storage.ledger import LABELS_PREFIX, parse_unit_path, shard_directory
from sam3lt_ray.storage.run_directory import SUMMARY_PATH, VOCABULARY_PATH, read_json, read_run
from sam3lt_ray.storage.snapshot import editions_of, read_snapshot
from sam3lt_ray.storage.store import RunStore

# A living holder that commits nothing for this long, and several times longer than usual, looks stuck.
_STUCK_S: Final = 900.0
_STUCK_INTERVALS: Final = 5
_MAX_OPENED_FOR_CAUSES: Final = 20
_NAMED_CAUSES: Final = 5
_MAX_OPENED_FOR_SIZES: Final = 5


@dataclass(frozen=True, slots=True)
class HolderState:
    """Who works on a run.

    Attributes:
        who: Process, machine and since when.
        held_s: Seconds since it took the run.
        renewed_age_s: Seconds since it last said that it lives.
        is_silent: It is gone or says nothing any more: the next start takes over.
        looks_stuck: It lives, and has committed nothing for long.
    """

    who: str
    held_s: float
    renewed_age_s: float
    is_silent: bool
    looks_stuck: bool


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is.

    Attributes:
        shards_done: Shards whose images have all been asked every label of the vocabulary (final); the rest is open.
        images_done: Images that have a row.
        images_left: Images that were not asked every label; None where nothing is known to guess from.
        images_left_is_estimate: Some of them are guessed from the bytes of their shards.
        causes: Commonest causes of error rows to images, from a few units with errors; empty without errors.
        images_per_s: From the commits of the last ten minutes before the newest one; None with fewer than two.
        remaining_s: Seconds for ``images_left`` at this rate.
        last_commit_age_s: Seconds since the newest commit, by the store's clock and this machine's.
        slowest_shards: Shards that were slower than the median of the commits since the last pause.
        median_shard_images_per_s: That median.
        holder: Who works on it; None: nobody.
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
    images_left: int | None
    images_left_is_estimate: bool
    errors: dict[str, int]
    causes: dict[str, int]
    instances: dict[str, int]
    images_per_s: float | None
    remaining_s: float | None
    last_commit_age_s: float | None
    slowest_shards: list[SlowShard]
    median_shard_images_per_s: float | None
    holder: HolderState | None
    last_summary: dict[str, Any] | None

    @property
    def is_complete(self) -> bool:
        """Every image of every known shard has been asked every label."""
        return self.shards_done == self.shards_total

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "shards_open": self.shards_total - self.shards_done, "complete": self.is_complete}

    def to_text(self) -> str:
        """Lines for a person."""
        return describe_state(self)


def read_run_state(store: RunStore, now_s: float | None = None) -> RunState:
    """Read how far a run is; opens footers of units that no start has added up and of a few others, no rows.

    Args:
        store: The run directory; nothing is written.
        now_s: Seconds since 1970; None: this machine's clock.

    Raises:
        InputError: There is no run here.
    """
    now_s = time.time() if now_s is None else now_s
    run = read_run(store)
    reader = RunReader(store)
    labels = reader.vocabulary().labels if store.exists(VOCABULARY_PATH) else ()
    shards = read_snapshot(store)
    files = [item for item in store.list(LABELS_PREFIX) if parse_unit_path(item.path) is not None]
    coverage = Coverage(read_layers(store, run), questions_of(labels), editions_of(shards))
    coverage.add_paths(item.path for item in files)
    if coverage.foreign_paths:
        foreign = set(coverage.foreign_paths)
        files = [item for item in files if item.path not in foreign]
    totals = RunTotals.load(store, is_kept=False)
    counts = joined_counts(reader, coverage, totals)
    assert counts is not None  # as much was read as there is to read
    done = sum(1 for shard in shards if labels and not coverage.gaps(shard))
    names = {label.id: label.name for label in labels}
    commits = latest_commits(files)
    rate = recent_rate(commits)
    left = _count_left(store, shards, coverage)
    slowest, middle = slowest_shards(commits, {shard_directory(one.name, one.edition): one.name for one in shards})
    holder = read_holder(store)
    return RunState(
        run=store.uri,
        fingerprint=run["fingerprint"],
        shards_total=len(shards),
        shards_done=done,
        shards_started=sum(1 for shard in shards if coverage.units(shard)),
        units_done=coverage.num_wanted_units,
        images_done=counts.images,
        images_ok=counts.images - counts.num_errors,
        images_left=left.images,
        images_left_is_estimate=left.is_estimate,
        errors=dict(counts.errors),
        causes=_causes(store, coverage, totals.errors()) if counts.num_errors else {},
        instances={names[label_id]: n for label_id, n in sorted(counts.instances.items())},
        images_per_s=rate,
        remaining_s=left.images / rate if rate and left.images is not None else None,
        last_commit_age_s=max(0.0, now_s - commits[-1].at_s) if commits else None,
        slowest_shards=slowest,
        median_shard_images_per_s=middle,
        holder=None if holder is None else _holder_state(holder, commits, now_s),
        last_summary=read_json(store, SUMMARY_PATH),
    )


def _count_left(store: RunStore, shards: Sequence[Shard], coverage: Coverage) -> ImageCount:
    """As long as no shard is done, some units' footers tell what an image takes of its shard."""
    ahead = ImagesAhead.look(shards, coverage)
    if ahead.left().images is None:
        begun = (units[-1] for shard in shards if (units := coverage.units(shard)))
        for unit in islice(begun, _MAX_OPENED_FOR_SIZES):
            offset = read_resume_offset(store, unit.path)
            if offset is not None:
                ahead.read(unit.range.end, offset / unit.range.end)
    return ahead.left()


def _causes(store: RunStore, coverage: Coverage, with_errors: Mapping[int, object]) -> dict[str, int]:
    """Commonest first. A unit that was retried is known by its last retry, which holds what is still an error."""
    paths = [path for unit in coverage.iter_units() if file_id(path := unit.paths[-1]) in with_errors]
    found = add_up_causes(counts.causes for counts in read_counts(store, paths[-_MAX_OPENED_FOR_CAUSES:]))
    return dict(list(found.items())[:_NAMED_CAUSES])


def _holder_state(holder: Holder, commits: list[Commit], now_s: float) -> HolderState:
    record, is_silent = holder.record, holder.is_silent(now_s)
    latest_s = max([record.acquired_at, *(one.at_s for one in commits[-1:])])
    patience_s = max(_STUCK_S, _STUCK_INTERVALS * (usual_interval_s(commits) or 0.0))
    return HolderState(
        who=record.describe(),
        held_s=max(0.0, now_s - record.acquired_at),
        renewed_age_s=max(0.0, now_s - holder.renewed_s),
        is_silent=is_silent,
        looks_stuck=not is_silent and now_s - latest_s > patience_s,
    )
