"""What Arrow says about a damaged file, told apart from storage that fails while the file is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.storage.ledger import is_retry
from sam3lt_ray.storage.store import RunStore


def is_damage(error: Exception) -> bool:
    """Whether a file of Parquet makes no sense; other errors of reading it come from the system or the store."""
    if isinstance(error, pa.ArrowException):
        return not isinstance(error, MemoryError)
    # Arrow raises plain ones for pages that cannot be unpacked; those of the system have a number, ours a class.
    return (type(error) is OSError and error.errno is None) or isinstance(error, ValueError | KeyError | TypeError)


@contextmanager
def naming_damaged_unit(store: RunStore, path: str) -> Iterator[None]:
    """Turn what is raised over a damaged unit's file into a sentence that names it and says what to do.

    Raises:
        RunMismatchError: The file is damaged.
    """
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        again = "sam3lt label --retry-errors" if is_retry(path) else "sam3lt label"
        raise RunMismatchError(
            f"{store.location(path)} is not a readable Parquet file ({error}). Files are written whole or not at all, "
            f"so it was damaged later. Delete it and run `{again}` again: only what it held is labeled anew."
        ) from error
