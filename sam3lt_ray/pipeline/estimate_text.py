"""What a run will take, in lines for a person."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sam3lt_ray.durations import format_rough_duration
from sam3lt_ray.pipeline.costs import Cost
from sam3lt_ray.terminal import count_of

if TYPE_CHECKING:
    from sam3lt_ray.pipeline.estimate import Estimate


def describe_estimate(estimate: Estimate) -> list[str]:
    """What ``sam3lt plan`` prints of it."""
    device, rate = estimate.device, estimate.images_per_s
    lines = ["", f"estimate     {count_of(estimate.devices, device)}; start-up (seconds to minutes) is not in it"]
    lines += _cost_lines("whole", estimate.whole)
    lines += _cost_lines("remaining", estimate.remaining)
    lines.append(f"images       {estimate.images_from}")
    speed = "" if rate is None else f"{rate:,.3g} images/s per {device}: "
    lines.append(f"speed        {speed}{estimate.rate_from or 'unknown: add --calibrate N or --images-per-second R'}")
    lines.append(f"label files  {estimate.output_from or 'unknown: add --calibrate N'}")
    return lines


def _cost_lines(name: str, cost: Cost) -> list[str]:
    parts = [f"{count_of(cost.images, 'image')} in {count_of(cost.units, 'unit')}"]
    if cost.wall_s is not None and cost.device_hours is not None:
        parts.append(f"{format_rough_duration(cost.wall_s)}, {cost.device_hours:,.3g} device-hours")
    if cost.price is not None:
        parts.append(f"price {cost.price:,.2f}")
    if cost.output_bytes is not None:
        parts.append(f"labels {format_size(cost.output_bytes)}")
    asked: Counter[str] = Counter(
        {"HEAD": cost.requests.head, "GET": cost.requests.get, "PUT": cost.requests.put, "LIST": cost.requests.list}
    )
    if any(asked.values()):
        counted = ", ".join(f"{count:,} {kind}" for kind, count in asked.items() if count)
        parts.append(f"S3 {counted}, and {cost.requests.start} of the start")
    return [f"{name:<12} {parts[0]}", *(f"             {part}" for part in parts[1:])]


def format_size(num_bytes: int) -> str:
    """``99.50 MB``, ``1.25 GB``."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.2f} MB"
