"""Pillow's process-wide settings, held while we decode and put back afterwards.

Pillow reports odd metadata through :mod:`warnings` and limits image sizes through a module variable. Both belong to the
process, while we decode in several threads: whoever comes first changes them, whoever leaves last restores them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from PIL import Image


class _SharedGuard:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_active = 0
        self._restore = ExitStack()
        self._is_initialised = False

    def enter(self, max_pixels: int) -> None:
        with self._lock:
            if self._num_active == 0:
                self._take_over()
            self._num_active += 1
            # Pillow refuses above twice its limit, before anything is allocated; the exact limit is checked by the
            # decoder itself. With several limits at work the largest one holds here.
            current = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = max_pixels if current is None else max(current, max_pixels)

    def leave(self) -> None:
        with self._lock:
            self._num_active -= 1
            if self._num_active == 0:
                self._restore.close()

    def _take_over(self) -> None:
        if not self._is_initialised:
            Image.init()  # fills Pillow's registry of plugins, which is not made for several threads
            self._is_initialised = True
        self._restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        self._restore.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")


_GUARD = _SharedGuard()


@contextmanager
def quiet_pillow(max_pixels: int) -> Iterator[None]:
    """Keep Pillow's warnings from leaking and its size limit out of the way; may be held by many threads at once.

    Args:
        max_pixels: Images above twice this many pixels are refused by Pillow on opening, before memory is taken.
    """
    _GUARD.enter(max_pixels)
    try:
        yield
    finally:
        _GUARD.leave()
