"""A run directory is a folder, which must not lie where its input is listed, nor the input where a run is discarded."""

from __future__ import annotations

import os
from pathlib import Path

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import InputError
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.storage.filesystem import is_s3, local_path, split_s3_uri


def refuse_nesting(config: Config) -> None:
    """Refuse a configuration whose run would become its own input, or whose input is inside the run directory.

    A run in a folder of tars, or beside a manifest, is never listed as input; so is one in a hidden folder.

    Raises:
        InputError: It is so.
    """
    output, source = _parts(config.run.output), _parts(config.input.uri)
    places = f"run.output ({without_credentials(config.run.output)}) and input.uri ({config.input.uri})"
    if source[: len(output)] == output:
        raise InputError(
            f"The input lies inside the run directory, so discarding the run would delete it: {places}. Choose a "
            "run.output elsewhere."
        )
    below = output[len(source) :]
    is_listed = config.input.format in ("parquet", "folder") and not any(part.startswith(".") for part in below)
    if output[: len(source)] == source and is_listed:
        raise InputError(
            f"The run directory lies inside the input, so the next start would list its files as input: {places}. "
            "Choose a run.output elsewhere."
        )


def refuse_file(config: Config) -> None:
    """Refuse a run.output that is a file.

    Raises:
        InputError: It is so.
    """
    output = config.run.output
    if not is_s3(output) and Path(local_path(output)).is_file():
        raise InputError(f"run.output ({output}) is a file. Name a folder: one that is new, empty, or holds a run.")


def _parts(uri: str) -> tuple[str, ...]:
    """A location as the names on the way to it, links resolved."""
    if is_s3(uri):
        bucket, key = split_s3_uri(uri)
        return ("s3:", bucket, *(part for part in key.split("/") if part))
    return ("/", *(part for part in os.path.realpath(local_path(uri)).split("/") if part))
