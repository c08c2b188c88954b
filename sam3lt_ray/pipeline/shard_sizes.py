"""How much work shards are, also those whose images only reading would count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sam3lt_ray.inputs.forward_reader import BLOCK_BYTES
from sam3lt_ray.inputs.image_stream import BYTES_PER_MB
from sam3lt_ray.pipeline.costs import Work
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.pipeline.sampling import InputSample
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.filesystem import is_s3

_PARQUET_FOOTER_GETS: Final = 2


@dataclass(frozen=True, slots=True)
class ShardSizes:
    """How many images shards hold: known from committed units, counted, or extrapolated from a sample."""

    prepared: PreparedRun
    coverage: Coverage
    counts: Mapping[str, int | None]
    sample: InputSample
    _found: dict[str, int | None] = field(default_factory=dict, init=False, repr=False)

    def images(self, shard: Shard) -> int:
        """Images of a shard."""
        known = self._known(shard)
        if known is not None:
            return known
        guess = round((shard.size_bytes or 0) * (self.sample.images_per_byte or 0.0))
        return max(guess, self.coverage.num_images(shard))

    def units(self, shard: Shard, num_images: int) -> int:
        """Units that so many images of a shard are cut into; one for a shard without images."""
        settings, total = self.prepared.config.input, self.images(shard)
        num_bytes = (shard.size_bytes or 0) * num_images / total if total else 0
        by_bytes = math.ceil(num_bytes / (settings.max_unit_mb * BYTES_PER_MB))
        return max(1, math.ceil(num_images / settings.images_per_unit), by_bytes)

    def input_gets(self, shard: Shard, num_images: int) -> int:
        """Requests that read so many images of a shard."""
        if not is_s3(self.prepared.config.input.uri):
            return 0
        if shard.members:
            return num_images
        num_bytes = (shard.size_bytes or 0) * num_images / max(1, self.images(shard))
        footer = _PARQUET_FOOTER_GETS if self.prepared.config.input.format == "parquet" else 0
        return footer + max(1, math.ceil(num_bytes / BLOCK_BYTES))

    def describe(self, shards: Sequence[Shard]) -> str:
        """Where the numbers of images are from."""
        guessed = sum(1 for shard in shards if self._known(shard) is None)
        if not guessed:
            return "counted by reading" if self.sample.read_whole and None in self.counts.values() else "counted"
        known = f"; {len(shards) - guessed:,} shards are known" if guessed < len(shards) else ""
        return (
            f"estimated: sampled {self.sample.shards:,} of {len(shards):,} shards ({self.sample.images_read:,} images "
            f"at their beginnings) for images per byte{known}"
        )

    def _known(self, shard: Shard) -> int | None:
        if shard.name not in self._found:  # asked several times of each shard, and coverage takes its time
            self._found[shard.name] = self._look_up(shard)
        return self._found[shard.name]

    def _look_up(self, shard: Shard) -> int | None:
        for counts in (self.counts, self.sample.read_whole):
            counted = counts.get(shard.name)
            if counted is not None:
                return counted
        is_complete = all(gap.end is not None for gap in self.coverage.gaps(shard))
        return self.coverage.num_images(shard) if is_complete else None


def work_on(
    label_ids: frozenset[int], shards: Sequence[tuple[Shard, list[tuple[int, int]]]], sizes: ShardSizes
) -> Work:
    """Work that asks some labels.

    Args:
        label_ids: The labels.
        shards: Shards with the ranges [first, end) of images that are asked.
        sizes: Sizes of the shards.
    """
    spans = [(shard, max(0, end - first)) for shard, gaps in shards for first, end in gaps]
    return Work(
        labels=len(label_ids),
        shards=len(shards),
        images=sum(count for _, count in spans),
        units=sum(sizes.units(shard, count) for shard, count in spans),
        input_gets=sum(sizes.input_gets(shard, count) for shard, count in spans),
    )
