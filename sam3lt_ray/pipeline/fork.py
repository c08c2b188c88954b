"""Forks: another run directory with other settings, which knows the run it comes from and reuses none of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.storage.filesystem import is_s3, local_path
from sam3lt_ray.storage.run_directory import VOCABULARY_PATH, find_run, read_json, read_run
from sam3lt_ray.storage.store import open_store
from sam3lt_ray.vocabulary.history import KnownLabel, read_history


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that a new one is forked from.

    Attributes:
        forked_config: The settings with the new run directory.
        uri: The old run directory.
        fingerprint: The old run's.
        identity: What the old run labels with, to say what is different.
        known_labels: Its labels: a fork keeps their ids.
    """

    forked_config: Config
    uri: str
    fingerprint: str
    identity: dict[str, Any]
    known_labels: Sequence[KnownLabel]

    def to_json(self, differences: Sequence[str]) -> dict[str, Any]:
        """What run.json of the fork keeps."""
        return {"run": self.uri, "fingerprint": self.fingerprint, "differences": list(differences)}

    def describe(self) -> str:
        """One sentence for a person."""
        return f"A fork of {self.uri}: label ids are kept, every image is labeled anew, that run stays as it is."


def find_origin(config: Config, fork: str) -> Origin:
    """The run in ``run.output``, as the origin of a run in ``fork``.

    Args:
        config: The settings, with the old run directory.
        fork: The new run directory.

    Raises:
        InputError: There is no run in ``run.output``.
        RunMismatchError: ``fork`` is that very directory, or holds a run that is no fork of it.
    """
    old = open_store(config.run.output, config.storage)
    run = read_run(old)
    new = open_store(fork, config.storage)
    if new.uri == old.uri:
        raise RunMismatchError(f"--fork names the run itself, {old.uri}. Name a new directory.")
    existing = find_run(new)
    if existing is not None and existing.get("forked_from", {}).get("run") != old.uri:
        raise RunMismatchError(f"{new.uri} holds a run already, which is no fork of {old.uri}. Name a new directory.")
    output = fork if is_s3(fork) else local_path(fork)
    return Origin(
        forked_config=config.model_copy(update={"run": config.run.model_copy(update={"output": output})}),
        uri=old.uri,
        fingerprint=run["fingerprint"],
        identity=run.get("identity", {}),
        known_labels=read_history(read_json(old, VOCABULARY_PATH)),
    )
