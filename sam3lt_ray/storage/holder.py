"""Who holds a run, as a reader of its directory sees it; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass

from sam3lt_ray.storage.lease import LEASE_DURATION_S, latest_lease
from sam3lt_ray.storage.lease_record import LeaseRecord, is_dead_neighbour
from sam3lt_ray.storage.store import RunStore


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a run.

    Attributes:
        record: What its lease says.
        renewed_s: When that was last renewed, by the store's clock.
    """

    record: LeaseRecord
    renewed_s: float

    def is_silent(self, now_s: float) -> bool:
        """It is gone, or has renewed nothing for so long that the next start may take over."""
        return is_dead_neighbour(self.record) or now_s - self.renewed_s > LEASE_DURATION_S


def read_holder(store: RunStore) -> Holder | None:
    """Who holds a run now; None when it was given back or nobody ever had it."""
    found = latest_lease(store)
    return None if found is None or found[1].released else Holder(found[1], found[2])
