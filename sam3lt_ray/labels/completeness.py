"""How much of a run is still to be labeled, from names alone: what part of it gives must not read like the whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.storage.snapshot import read_snapshot


@dataclass(frozen=True, slots=True)
class Completeness:
    """Shards of a run.

    Attributes:
        shards: All that the run covers.
        shards_open: Those with images that were not asked every label.
    """

    shards: int
    shards_open: int

    def to_json(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)

    def remark(self) -> str | None:
        """A sentence for a person; None where nothing is missing."""
        if not self.shards_open:
            return None
        return (
            f"The run is not complete: {self.shards_open:,} of {self.shards:,} shards are not labeled to their end, "
            "and what they lack is not in this. `sam3lt label` goes on with it."
        )


def read_completeness(reader: RunReader) -> Completeness:
    """Look at a run's snapshot and listing.

    Raises:
        InputError: There is no run, or it has no vocabulary.json.
    """
    shards, coverage = read_snapshot(reader.store), reader.coverage()
    return Completeness(len(shards), sum(1 for shard in shards if coverage.gaps(shard)))
