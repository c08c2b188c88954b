"""When a run is going wrong: more error rows than ``errors.max_error_fraction`` allows, and no end of it in sight.

Two simple rules, because whoever is stopped by one should be able to check it by hand. Bad images come in clusters (a
shard that was written badly, a folder of another kind), so an excess is no proof by itself:

* **Wrong input.** Among at least 100 images more are error rows than lie in the middle between the budget and all of
  them: more than 52.5 % for a budget of 0.05. One shard with some bad images never gets there.
* **Bad all over.** At least ten shards were seen, with 50 images or more of each, and more than half of them have an
  error share of more than twice the budget. However bad some few shards are, they are few.

Whatever is neither is judged at the end of the run, by its total. Units are judged when they are committed; before that
:mod:`sam3lt_ray.pipeline.first_look` applies the first rule to the units that would come first.
"""

from __future__ import annotations

from typing import Final

from sam3lt_ray.labels.rows import UnitCounts

MIN_IMAGES: Final = 100
MIN_SHARDS: Final = 10
MIN_IMAGES_OF_SHARD: Final = 50


def is_wrong_input(images: int, errors: int, max_error_fraction: float) -> bool:
    """The first rule."""
    return images >= MIN_IMAGES and errors > (1 + max_error_fraction) / 2 * images


class ErrorBudget:
    """Adds up what one start labels, and says when it should go no further.

    Args:
        max_error_fraction: ``errors.max_error_fraction``; None: never.
    """

    def __init__(self, max_error_fraction: float | None) -> None:
        self._allowed = max_error_fraction
        self._images = 0
        self._errors = 0
        self._shards: dict[str, tuple[int, int]] = {}
        self._judged_shards = 0
        self._bad_shards = 0

    def add(self, shard: str, counts: UnitCounts) -> None:
        """Count a unit of a shard."""
        if self._allowed is None:
            return
        self._images += counts.images
        self._errors += counts.num_errors
        images, errors = self._shards.get(shard, (0, 0))
        self._tally_shard(images, errors, -1)
        images, errors = images + counts.images, errors + counts.num_errors
        self._tally_shard(images, errors, +1)
        self._shards[shard] = images, errors

    def verdict(self) -> str | None:
        """Why the run should stop, in one sentence; None when it should go on."""
        if self._allowed is None:
            return None
        if is_wrong_input(self._images, self._errors, self._allowed):
            return (
                f"{self._errors:,} of the first {self._images:,} images are error rows. That is no run with some bad "
                f"images (errors.max_error_fraction is {self._allowed:g}) but the wrong input."
            )
        if self._judged_shards >= MIN_SHARDS and self._bad_shards > self._judged_shards / 2:
            return (
                f"{self._bad_shards:,} of {self._judged_shards:,} shards have more than twice the share of error rows "
                f"that errors.max_error_fraction {self._allowed:g} allows, so it is not a matter of a few bad shards."
            )
        return None

    def _tally_shard(self, images: int, errors: int, sign: int) -> None:
        if images < MIN_IMAGES_OF_SHARD:
            return
        assert self._allowed is not None
        self._judged_shards += sign
        if errors > 2 * self._allowed * images:
            self._bad_shards += sign
