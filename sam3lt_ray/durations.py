"""Durations as people read them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """``3723`` as ``1:02:03``, ``63`` as ``1:03``."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"


def format_rough_duration(seconds: float) -> str:
    """``95`` as ``95 s``, ``600`` as ``10 min``, ``9000`` as ``2.5 h``: for what is estimated, or long ago."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:,.1f} h"
