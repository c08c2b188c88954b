"""Which names a file in a run directory may have: those that mean the same on every store."""

from __future__ import annotations

from typing import Final

from sam3lt_ray.errors import StorageError

# What a writer leaves behind when it is killed; never part of a run.
TEMPORARY_PREFIX: Final = ".sam3lt-tmp-"
_MAX_SEGMENT_BYTES: Final = 255


def checked_segments(path: str) -> list[str]:
    """The parts of a relative path between its slashes.

    Args:
        path: "labels/base/shard/000000-000256.parquet".

    Raises:
        StorageError: Absolute, empty, leaving the directory (".."), or not a name on every store.
    """
    segments = path.split("/")
    problem = _path_problem(path) or next(filter(None, map(_segment_problem, segments)), None)
    if problem:
        raise StorageError(
            f"{path!r} cannot be the name of a file in a run directory: {problem}. Expected a relative path such as "
            "labels/base/shard/unit.parquet."
        )
    return segments


def checked_prefix(prefix: str) -> list[str]:
    """Like :func:`checked_segments`, for a directory: "" is the run directory; a slash may end it."""
    trimmed = prefix.removesuffix("/")
    return checked_segments(trimmed) if trimmed else _checked_root(prefix)


def _checked_root(prefix: str) -> list[str]:
    if prefix:
        checked_segments(prefix)
    return []


def _path_problem(path: str) -> str | None:
    if not path:
        return "it is empty"
    if path.startswith("/"):
        return "it is absolute"
    if "\0" in path:
        return "it contains a NUL character"
    if "\\" in path:
        return "it contains a backslash, which some stores take for a slash"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "it contains characters that cannot be written as UTF-8"
    return None


def _segment_problem(segment: str) -> str | None:
    if not segment:
        return "it has an empty part between slashes"
    if segment in (".", ".."):
        return f"it contains {segment!r}"
    if segment.startswith(TEMPORARY_PREFIX):
        return f"names that begin with {TEMPORARY_PREFIX} are those of unfinished files"
    length = len(segment.encode("utf-8"))
    if length > _MAX_SEGMENT_BYTES:
        return f"a part of it is {length} bytes long, more than {_MAX_SEGMENT_BYTES}"
    return None
