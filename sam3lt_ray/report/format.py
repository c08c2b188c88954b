"""Numbers as people read them; a dash where there is none."""

from __future__ import annotations


def format_count(value: int | None) -> str:
    """1234 -> "1,234"."""
    return "-" if value is None else f"{value:,}"


def format_share(value: float | None) -> str:
    """0.98765 -> "0.988"."""
    return "-" if value is None else f"{value:.3f}"


def format_percent(value: float | None) -> str:
    """0.0123 -> "1.2 %"."""
    return "-" if value is None else f"{value * 100:.1f} %"


def format_duration(seconds: float | None) -> str:
    """75.2 -> "1 min 15 s"."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest_s} s"
