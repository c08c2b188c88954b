"""Labeling image by image, for units whose process died or hung when they were labeled the usual way.

Before each image a note in the run directory says which one is next. A process that dies leaves the note behind, so the
next attempt knows the suspect; an image that was being labeled at two deaths becomes an error row and is not touched
again. Deaths that have nothing to do with the image (a node taken away) rarely hit the same image twice.

A driver that ends, of itself or killed, takes its workers along, and that is no image's fault: the slower an image, the
more often it would be hit. So a note counts as a death only for the driver under which it was written. The price: an
image that takes its driver's whole machine down each time is never found out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sam3lt_ray.errors import ImageError, Sam3ltError
from sam3lt_ray.records import ImageLabels, Unit
from sam3lt_ray.stages.label import ImageLabeler
from sam3lt_ray.storage.ledger import LABELS_PREFIX
from sam3lt_ray.storage.run_directory import read_json, write_json
from sam3lt_ray.storage.store import RunStore

MAX_DEATHS: Final = 2
ATTEMPTS_PREFIX: Final = "attempts"


class CarefulLabeler:
    """Labels units one image at a time and remembers what killed it.

    Args:
        labeler: Labels one image.
        store: The run directory, for the notes.
        driver_id: Tells the driver that is at work from all earlier ones.
    """

    def __init__(self, labeler: ImageLabeler, store: RunStore, driver_id: str) -> None:
        self._labeler = labeler
        self._store = store
        self._driver_id = driver_id

    def label_unit(self, unit: Unit, before_image: Callable[[], None]) -> list[ImageLabels | ImageError]:
        """Label all images of a unit, in order; one result each.

        Args:
            unit: The unit.
            before_image: Called before each image and its note, to feed a watchdog; may end the process.
        """
        path = _note_path(unit.path)
        deaths = self._deaths(path)
        results: list[ImageLabels | ImageError] = []
        for image in unit.images:
            if deaths.get(image.index, 0) >= MAX_DEATHS:
                results.append(
                    ImageError(
                        "worker_died",
                        f"The process that labeled this image ended or hung {deaths[image.index]} times while it "
                        "worked on it alone (a crash, or killed for want of memory); the image is left out.",
                    )
                )
                continue
            before_image()
            self._note(path, image.index, deaths)
            results.append(self._labeler.label_image(image))
        self._store.delete(path)
        return results

    def _note(self, path: str, current: int, deaths: dict[int, int]) -> None:
        try:
            note = {"driver": self._driver_id, "current": current, "deaths": _with_text_keys(deaths)}
            write_json(self._store, path, note)
        except Sam3ltError:
            # The note before this one stays, and would blame an image that is labeled already for a death that was
            # none. On a full disk nothing can be written, but things can be removed.
            with suppress(Sam3ltError):
                self._store.delete(path)
            raise

    def _deaths(self, path: str) -> dict[int, int]:
        """Deaths by image index: those noted, and the one that left the note behind under a driver that still lives."""
        note = read_json(self._store, path)
        if note is None:
            return {}
        deaths = {int(index): int(count) for index, count in note["deaths"].items()}
        if note.get("driver") == self._driver_id:
            deaths[note["current"]] = deaths.get(note["current"], 0) + 1
        return deaths


def read_notes(store: RunStore, layer: str) -> dict[str, bytes]:
    """The notes of a layer that are left, by path: they change with every death that a careful pass sees."""
    return {item.path: store.read(item.path) for item in store.list(f"{ATTEMPTS_PREFIX}/{layer}")}


def _note_path(unit_path: str) -> str:
    """A note per file that is being made: labels/000/x/y.parquet has its note in attempts/000/x/y.json."""
    return f"{ATTEMPTS_PREFIX}{unit_path.removeprefix(LABELS_PREFIX).removesuffix('.parquet')}.json"


def _with_text_keys(deaths: dict[int, int]) -> dict[str, int]:
    return {str(index): count for index, count in deaths.items()}
