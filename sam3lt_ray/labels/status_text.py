"""The state of a run in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sam3lt_ray.durations import format_rough_duration
from sam3lt_ray.terminal import count_of

if TYPE_CHECKING:
    from sam3lt_ray.labels.status import HolderState, RunState


def describe_state(state: RunState) -> str:
    """What ``sam3lt status`` prints."""
    return "\n".join(f"{name:<10} {text}" for name, text in _lines(state))


def _lines(state: RunState) -> Iterator[tuple[str, str]]:
    yield "run", f"{state.run} ({'complete' if state.is_complete else 'incomplete'})"
    if state.holder is not None:
        yield "held by", _describe_holder(state.holder)
    still_open = state.shards_total - state.shards_done
    yield "shards", f"{state.shards_done:,} of {state.shards_total:,} done, {still_open:,} open"
    yield "images", f"{state.images_done:,} labeled, {sum(state.errors.values()):,} of them errors"
    yield "instances", f"{sum(state.instances.values()):,}"
    if state.images_per_s is not None:
        yield "rate", f"{_rate(state.images_per_s)} images/s over the last commits"
    if not state.is_complete:
        yield "left", _describe_rest(state)
    if state.last_commit_age_s is not None:
        yield "newest", f"unit committed {format_rough_duration(state.last_commit_age_s)} ago"
    for shard in state.slowest_shards:
        middle = _rate(state.median_shard_images_per_s or 0.0)
        yield "slowest", f"{shard.name}: {_rate(shard.images_per_s)} images/s (median of the shards {middle})"
    for kind, count in sorted(state.errors.items()):
        yield "error", f"{kind}: {count:,}"
    for cause, count in state.causes.items():
        yield "cause", f"{count:,} x {cause}"
    if state.last_summary is not None:
        yield "last end", f"{state.last_summary['status']}: {state.last_summary['message']}"


def _describe_holder(holder: HolderState) -> str:
    if holder.is_silent:
        silence = format_rough_duration(holder.renewed_age_s)
        return f"{holder.who}, which has not been heard of for {silence}; the next start takes over"
    stuck = "; it lives but commits nothing: it looks stuck" if holder.looks_stuck else ""
    return f"{holder.who}{stuck}"


def _describe_rest(state: RunState) -> str:
    if state.images_left is None:
        return "unknown until a shard is done"
    about = "about " if state.images_left_is_estimate else ""
    time = "" if state.remaining_s is None else f", about {format_rough_duration(state.remaining_s)} at this rate"
    return f"{about}{count_of(state.images_left, 'image')}{time}"


def _rate(images_per_s: float) -> str:
    return f"{images_per_s:.1f}" if images_per_s >= 1 else f"{images_per_s:.2g}"
