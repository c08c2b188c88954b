"""A look at the input before Ray starts: a bucket of PDFs should cost neither a GPU nor a whole unit of them.

``errors.max_error_fraction`` stops a run that has the wrong input, judged by the units that were committed
(:mod:`sam3lt_ray.pipeline.error_budget`). The first of these may hold hundreds of images, and each actor works on one.
So the driver looks first, and only at how files begin. It stops at the first image that could be one: of a healthy
input it opens one shard and reads its beginning.

It is never stricter than the budget's own rule. That rule is applied to the units with which labeling would begin, and
whatever was not looked at in them counts as a fine image. Beyond that, shards all over the input must begin badly too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Final

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.errors import ImageError, Sam3ltError
from sam3lt_ray.images.decode import require_decodable
from sam3lt_ray.inputs.reading import read_units
from sam3lt_ray.labels.causes import add_up_causes, cause_of
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.pipeline.error_budget import is_wrong_input
from sam3lt_ray.pipeline.worklist import LayerWork
from sam3lt_ray.records import EncodedImage, ReadRange, Shard

_MAX_IMAGES: Final = 200
_MAX_SHARDS: Final = 20
_SPREAD: Final = 4  # shards all over the input whose first image is looked at
_WHOLE: Final = ((0, None),)


def find_wrong_input(
    work: Sequence[LayerWork], settings: InputSettings, storage: StorageSettings, max_error_fraction: float | None
) -> UnitCounts | None:
    """Look at the shards that would be labeled from their beginning on.

    Args:
        work: What there is to do.
        settings: The input.
        storage: How S3 is reached.
        max_error_fraction: ``errors.max_error_fraction``; None: nothing is looked at.

    Returns:
        The images that were looked at, all of them error rows to be; None when nothing speaks against a start.
    """
    whole = {item.shard.name: item.shard for of_layer in work for item in of_layer.shards if item.gaps == _WHOLE}
    shards = list(whole.values())
    if max_error_fraction is None or not shards:
        return None
    look = _Look(settings, storage, max_error_fraction)
    try:
        if look.finds_an_image_at_the_beginning_of(_spread(shards)) or not look.finds_units_too_bad(shards):
            return None
    except Sam3ltError:
        return None  # what cannot be read is the readers' matter, who try again
    return look.counts()


class _Look:
    def __init__(self, settings: InputSettings, storage: StorageSettings, max_error_fraction: float) -> None:
        self._images_per_unit = settings.images_per_unit
        self._one_by_one = settings.model_copy(update={"images_per_unit": 1})
        self._storage = storage
        self._allowed = max_error_fraction
        self._bad: dict[tuple[str, int], ImageError] = {}

    def finds_an_image_at_the_beginning_of(self, shards: Sequence[Shard]) -> bool:
        return any(self._is_fine(shard, image) for shard in shards for image in islice(self._images(shard), 1))

    def finds_units_too_bad(self, shards: Sequence[Shard]) -> bool:
        """Whether the first units break the budget's rule, whatever else is in the last one of them."""
        images = 0  # of units that were looked at to their end
        for shard in shards[:_MAX_SHARDS]:
            in_unit = 0
            for image in self._images(shard):
                if len(self._bad) >= _MAX_IMAGES or self._is_fine(shard, image):
                    return False
                in_unit += 1
                if is_wrong_input(images + self._images_per_unit, images + in_unit, self._allowed):
                    return True
                if in_unit == self._images_per_unit:
                    images, in_unit = images + in_unit, 0
            images += in_unit
            if is_wrong_input(images, images, self._allowed):
                return True
        return False

    def counts(self) -> UnitCounts:
        kinds = Counter[str](error.kind for error in self._bad.values())
        causes = Counter(cause_of(error.kind, error.message) for error in self._bad.values())
        return UnitCounts(len(self._bad), dict(kinds), causes=add_up_causes((causes,)))

    def _images(self, shard: Shard) -> Iterator[EncodedImage]:
        with closing(read_units(shard, [ReadRange()], self._one_by_one, self._storage)) as units:  # type: ignore[type-var]
            for unit in units:
                yield from unit.images

    def _is_fine(self, shard: Shard, image: EncodedImage) -> bool:
        try:
            if image.error_kind is not None:
                raise ImageError(image.error_kind, image.error_message or image.error_kind)
            require_decodable(image.data)
        except ImageError as error:
            self._bad[shard.name, image.index] = error
            return False
        return True


def _spread(shards: Sequence[Shard]) -> list[Shard]:
    """The first one, and some all over the others."""
    count = min(len(shards), _SPREAD + 1)
    return [shards[number * (len(shards) - 1) // max(1, count - 1)] for number in range(count)]
