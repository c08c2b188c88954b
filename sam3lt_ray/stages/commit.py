"""Stage 3, commit: one conditional put per unit. The file's existence is the commit; there is no state in between."""

from __future__ import annotations

from dataclasses import dataclass

from sam3lt_ray.storage.store import RunStore


@dataclass(frozen=True, slots=True)
class UnitCommitter:
    """Puts unit files into the run directory; a plain callable that pickles."""

    store: RunStore

    def __call__(self, path: str, data: bytes) -> bool:
        """Commit one unit.

        Returns:
            True when this call created the file; False when the unit had been committed before (by another attempt,
            another driver, or by this very call, whose answer was lost): the labels there are as good as these.

        Raises:
            StorageError: Storage refused for good; the unit stays missing and a later pass makes it again.
        """
        return self.store.create(path, data)
