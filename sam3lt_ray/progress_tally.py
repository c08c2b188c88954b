"""What progress counts: images, units, errors, the rate of this start, and what it leaves to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sam3lt_ray.durations import format_duration
from sam3lt_ray.terminal import count_of


@dataclass
class Tally:
    """Counts of a run and the rate of this start of it."""

    clock: Callable[[], float] = time.monotonic
    total_images: int | None = None
    is_estimate: bool = False
    done_images: int = 0
    done_units: int = 0
    errors: int = 0
    instances: int = 0
    busy_share: float | None = None
    _images_here: int = 0
    _started_s: float | None = field(default=None)

    def plan(self, total_images: int | None, done_images: int, done_units: int, *, is_estimate: bool = False) -> None:
        """Take over what the plan says; ``done_*`` counts earlier starts only, so what was done here is added."""
        if self._started_s is None:
            self._started_s = self.clock()
            self.done_images, self.done_units = done_images, done_units
        self.total_images, self.is_estimate = total_images, is_estimate

    def add(self, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        """Count one unit; arguments as in ``ProgressListener.unit_done``."""
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
            "images_total_is_estimate": self.is_estimate,
            "units_done": self.done_units,
            "images_per_s": self.images_per_s,
            "remaining_s": self.remaining_s,
            "instances": self.instances,
            "errors": self.errors,
            "busy_share": self.busy_share,
        }

    def describe(self) -> str:
        """The counts in one line."""
        about = "~" if self.is_estimate else ""
        # Whole units are committed, so a start may come out somewhat above its limit.
        done, total = self.done_images, self.total_images
        of_total = "" if total is None else f"{done:,} of {about}{count_of(max(total, done), 'image')}"
        parts = [of_total or count_of(done, "image")]
        if self.images_per_s is not None:
            parts.append(f"{self.images_per_s:.1f} images/s")
        if self.remaining_s is not None:
            parts.append(f"{about}{format_duration(self.remaining_s)} left")
        parts += [count_of(self.instances, "instance"), count_of(self.errors, "error")]
        if self.busy_share is not None:
            parts.append(f"devices {100 * self.busy_share:.0f} % busy")
        return ", ".join(parts)
