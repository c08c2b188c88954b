"""How many images a run has done and how many are ahead of it, from names in a listing; nothing is opened.

How many are in a tar or Parquet file is known when its last unit is committed. Until then its bytes tell, by the bytes
per image of those shards that are known; as long as there are none, by those of the units that were read meanwhile.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from sam3lt_ray.records import Shard
from sam3lt_ray.storage.coverage import Coverage, count_done


@dataclass(frozen=True, slots=True)
class ImageCount:
    """A number of images.

    Attributes:
        images: How many; None where nothing is known to guess from.
        is_estimate: Some shards' numbers of images are guessed from their bytes.
    """

    images: int | None
    is_estimate: bool


@dataclass(slots=True)
class ImagesAhead:
    """Sums over all shards, which change as units are committed: no shard is looked at twice.

    Attributes:
        done: Images that were asked everything.
        counted: Images ahead that are known by number.
    """

    done: int = 0
    counted: int = 0
    # Of shards whose end is not known: all of their bytes, and the images in front of those that are ahead.
    _open_bytes: int = 0
    _open_passed: int = 0
    _num_open: int = 0
    _num_sizeless: int = 0
    # Of shards whose end is known; of units that were read.
    _known_bytes: int = 0
    _known_images: int = 0
    _read_bytes: float = 0.0
    _read_images: int = 0

    @classmethod
    def look(cls, shards: Iterable[Shard], coverage: Coverage, vanished: Container[str] = ()) -> ImagesAhead:
        """Look at each shard once.

        Args:
            shards: The run's.
            coverage: What is committed.
            vanished: Names of shards of which nothing more will be asked.
        """
        ahead = cls()
        for shard in shards:
            gaps, units = coverage.gaps(shard), coverage.units(shard)
            ahead.done += count_done(gaps, units)
            end = len(shard.members) or next((unit.range.end for unit in reversed(units) if unit.range.is_last), None)
            if end and shard.size_bytes:
                ahead._known_bytes += shard.size_bytes
                ahead._known_images += end
            for gap in gaps if shard.name not in vanished else ():
                gap_end = gap.end if gap.end is not None else end
                if gap_end is not None:
                    ahead.counted += max(0, gap_end - gap.first)
                else:
                    ahead._open(shard.size_bytes, gap.first)
        return ahead

    def left(self) -> ImageCount:
        """Images that were not asked everything."""
        if not self._num_open:
            return ImageCount(self.counted, is_estimate=False)
        per_image = self._bytes_per_image()
        if self._num_sizeless or not per_image:
            return ImageCount(None, is_estimate=True)
        return ImageCount(self.counted + max(0, round(self._open_bytes / per_image) - self._open_passed), True)

    def total(self) -> ImageCount:
        """Images of the run, done or not."""
        left = self.left()
        return ImageCount(None if left.images is None else self.done + left.images, left.is_estimate)

    def read(self, images: int, bytes_per_image: float) -> None:
        """Images were read from shards that take so many bytes for each."""
        self._read_images += images
        self._read_bytes += images * bytes_per_image

    def ask_counted(self, images: int) -> None:
        """Images known by number were asked everything."""
        self.counted -= images
        self.done += images

    def ask_of_open(self, images: int) -> None:
        """The same of a shard whose end is not known, and still is not."""
        self._open_passed += images
        self.done += images

    def close(self, shard: Shard, passed: int, end: int) -> None:
        """The end of a shard has become known.

        Args:
            shard: The shard.
            passed: Images in front of those that are ahead in it.
            end: All of its images.
        """
        self._num_open -= 1
        self._open_passed -= passed
        self.counted += end - passed
        if shard.size_bytes is None:
            self._num_sizeless -= 1
        else:
            self._open_bytes -= shard.size_bytes
            self._known_bytes += shard.size_bytes
            self._known_images += end

    def _open(self, size_bytes: int | None, first: int) -> None:
        self._num_open += 1
        self._open_passed += first
        if size_bytes is None:
            self._num_sizeless += 1
        else:
            self._open_bytes += size_bytes

    def _bytes_per_image(self) -> float | None:
        if self._known_images:
            return self._known_bytes / self._known_images
        return self._read_bytes / self._read_images if self._read_images else None
