"""Distributed batch labeling on Ray: from image shards to instance masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sam3lt_ray.labeler import Labeler

__all__ = ["Labeler", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the labeler when it is first asked for: it brings torch, which the command line starts without."""
    if name == "Labeler":
        from sam3lt_ray.labeler import Labeler

        return Labeler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
