"""Command lines that stand in documents and manifests, parsed as the program does; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import typer

from sam3lt_ray.cli import app

JOBS = Path(__file__).parents[1] / "jobs"
# A job of another kind: it runs where a RayJob is started, and knows no options.
NO_COMMAND = {"start_rayjob.py"}


def own_arguments(words: Sequence[str]) -> list[str] | None:
    """What our command line would be given; None for other commands.

    Raises:
        KeyError: A job that does not exist.
    """
    for position, word in enumerate(words):
        path = PurePosixPath(word)
        if position and path.parent.name == "jobs" and path.suffix == ".py":
            if not (JOBS / path.name).is_file():
                raise KeyError(f"{word}: there is no such job")
            return None if path.name in NO_COMMAND else [path.stem, *words[position + 1 :]]
    # `ray job submit ... -- sam3lt ...`: what follows is a command line of its own.
    own = list(words[words.index("--") + 1 :]) if "--" in words else list(words)
    return own[1:] if len(own) > 1 and PurePosixPath(own[0]).name == "sam3lt" else None


@cache
def _root_command() -> Any:
    return typer.main.get_command(app)


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse as the program does, without calling any command.

    Raises:
        Exception: Click's usage error, or KeyError for a command that does not exist.
    """
    command = _root_command()
    words, context = list(arguments), None
    while hasattr(command, "commands"):
        context = command.context_class(command, parent=context)
        if not words:
            raise KeyError(f"{arguments}: a subcommand is missing")
        command = command.commands[words.pop(0)]
    found: dict[str, Any] = command.make_context(command.name, words, parent=context).params
    return found
