"""What format readers yield, and what they share: images in order with the place where each begins, and seen keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sam3lt_ray.records import EncodedImage

BYTES_PER_MB: Final = 2**20

# Given the index of an image, the keys of all images of the shard before it.
SeenKeys = Callable[[int], Iterable[str]]

# Stands for what could not be read at the end of a damaged shard, where no image's name is known.
END_OF_SHARD_KEY: Final = "(end of shard)"


@dataclass(frozen=True, slots=True)
class StreamedImage:
    """An image on its way into a unit.

    Attributes:
        image: The image.
        offset: Byte at which reading can begin to get this image first; None where the format seeks by index.
        shard_error: Set on the last image of a shard that ended wrongly.
    """

    image: EncodedImage
    offset: int | None = None
    shard_error: str | None = None


class KeyMemory:
    """Which keys came already, in 8 bytes of hash each: a shard may hold a million of them."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def add(self, key: str) -> bool:
        """Remember a key; False when it was there already."""
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        if number in self._hashes:
            return False
        self._hashes.add(number)
        return True


def too_large_message(size_bytes: int, max_image_mb: int) -> str:
    """The sentence for an image file above the byte limit."""
    return f"The file has {size_bytes:,} bytes; the limit is {max_image_mb} MB (input.max_image_mb)."


EMPTY_MESSAGE: Final = "The file has no bytes."
