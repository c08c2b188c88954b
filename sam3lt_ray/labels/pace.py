"""How fast a run goes, from names and times in a listing; nothing is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from sam3lt_ray.storage.ledger import UnitFile, parse_unit_path
from sam3lt_ray.storage.store import StoredFile

_RECENT_S: Final = 600.0
# Without any commit for this long, whoever labeled had stopped: what came before is another start's.
_PAUSE_S: Final = 1_800.0
_NAMED_SHARDS: Final = 3


@dataclass(frozen=True, slots=True)
class Commit:
    """A unit's file and when it was stored, by the store's clock."""

    at_s: float
    unit: UnitFile


@dataclass(frozen=True, slots=True)
class SlowShard:
    """A shard, and its images per second from its first to its last commit."""

    name: str
    images_per_s: float


def latest_commits(files: Iterable[StoredFile]) -> list[Commit]:
    """The commits since the run last stood still for half an hour, oldest first."""
    units = ((item, parse_unit_path(item.path)) for item in files)
    commits = sorted((Commit(item.modified_s, unit) for item, unit in units if unit), key=lambda one: one.at_s)
    first = max((i for i, (a, b) in enumerate(pairwise(commits), 1) if b.at_s - a.at_s > _PAUSE_S), default=0)
    return commits[first:]


def recent_rate(commits: Sequence[Commit]) -> float | None:
    """Images per second over the ten minutes before the newest commit; None with fewer than two."""
    return _rate([one for one in commits if one.at_s > commits[-1].at_s - _RECENT_S])


def usual_interval_s(commits: Sequence[Commit]) -> float | None:
    """Median seconds between two commits; None with fewer than two."""
    return median(b.at_s - a.at_s for a, b in pairwise(commits)) if len(commits) > 1 else None


def slowest_shards(commits: Sequence[Commit], names: Mapping[str, str]) -> tuple[list[SlowShard], float | None]:
    """The few shards that are slower than the median of all with at least two commits, slowest first; and the median.

    Args:
        commits: Those to judge by, oldest first.
        names: Shard directory -> name.
    """
    by_shard: dict[tuple[str, str], list[Commit]] = {}
    for one in commits:
        if one.unit.shard_dir in names and not one.unit.num_retries:
            by_shard.setdefault((one.unit.layer, one.unit.shard_dir), []).append(one)
    rates = {key: rate for key, of_shard in by_shard.items() if (rate := _rate(of_shard)) is not None}
    if not rates:
        return [], None
    middle = median(rates.values())
    slow = sorted((rate, names[shard_dir]) for (_, shard_dir), rate in rates.items() if rate < middle)
    return [SlowShard(name, rate) for rate, name in slow[:_NAMED_SHARDS]], middle


def _rate(commits: Sequence[Commit]) -> float | None:
    if len(commits) < 2 or commits[-1].at_s <= commits[0].at_s:
        return None
    # The oldest commit ends the time before the span, so its images are not part of it.
    return sum(one.unit.range.count for one in commits[1:]) / (commits[-1].at_s - commits[0].at_s)
