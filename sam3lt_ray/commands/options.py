"""Options that several commands share, and what they become."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sam3lt_ray.errors import ConfigError
from sam3lt_ray.terminal import printable

if TYPE_CHECKING:
    from sam3lt_ray.config.load import LoadedConfig
    from sam3lt_ray.config.schema import StorageSettings

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", metavar="FILE", help="YAML config; repeatable, later files win."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, such as compute.actors=2; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RunLocation = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="Run directory: a path or s3:// uri. Without it: run.output of the config."),
]


def read_config(files: list[Path] | None, overrides: list[str] | None) -> LoadedConfig:
    """The config of a command; a command without any is told how to get one.

    Raises:
        ConfigError: Every mistake at once.
    """
    from sam3lt_ray.config.load import load_config

    if not files and not overrides:
        raise ConfigError(["No config was given: name one with -c FILE. `sam3lt config init` writes a first one."])
    return load_config(files or [], overrides or [])


def read_job_config(files: list[Path] | None, overrides: list[str] | None) -> LoadedConfig:
    """The config of a command that is about its labels, which are checked too.

    Raises:
        ConfigError: Every mistake in the config, or else every mistake in its vocabulary.
    """
    from sam3lt_ray.vocabulary.loading import load_vocabulary

    loaded = read_config(files, overrides)
    # Here and not in the run alone: only here is known where a vocabulary in the config stands.
    load_vocabulary(loaded.config.vocabulary, base_dir=loaded.base_dir, written=loaded.inline_vocabulary)
    return loaded


def locate_run(run: str | None, files: list[Path] | None, overrides: list[str] | None) -> tuple[str, StorageSettings]:
    """Uri of a run directory and how to reach it.

    Args:
        run: Given on the command line; None: the config's ``run.output``.
        files: Config files; with ``run`` only their ``storage`` section is read.
        overrides: Overrides; with ``run`` only ``storage.*``.

    Raises:
        ConfigError: Neither a run nor a config is given, or the config has mistakes.
    """
    from sam3lt_ray.config.load import load_storage_settings

    if run is not None:
        return run, load_storage_settings(files or [], overrides or [])
    if not files and not overrides:
        raise ConfigError(["Which run? Name its directory, or the config it was made with: -c FILE."])
    config = read_config(files, overrides).config
    return config.run.output, config.storage


def print_text(text: str) -> None:
    """Lines for a person on standard output; what stands in them may come from the data."""
    print(printable(text), flush=True)


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on standard output."""
    print(printable(json.dumps(value, indent=2, ensure_ascii=False)))
