"""The run directory's fixed files: who created the run, with which settings, model and labels; and whether they agree.

``run.json`` is written once, by whoever comes first (a conditional put decides), and every later start is compared with
it field by field. The labels in it are those the run began with; ``vocabulary.json`` has those it has now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label

RUN_PATH: Final = "run.json"
VOCABULARY_PATH: Final = "vocabulary.json"
SUMMARY_PATH: Final = "run_summary.json"
PRECISION_PATH: Final = "precision.json"
FORMAT_VERSION: Final = 2
_MAX_NAMED = 8


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Everything that changes labels, in comparable form.

    Attributes:
        settings: Dotted configuration name -> value, for the settings that change labels.
        model_files: sha256 by file name of the checkpoint.
        labels: Label id -> {"name", "prompts"}: what the first layer asks. Later starts may have other labels.
        input_uri: Where the images come from. Not in the fingerprint, but two inputs never share a run.
    """

    settings: Mapping[str, Any]
    model_files: Mapping[str, str]
    labels: Mapping[int, Mapping[str, Any]]
    input_uri: str

    @property
    def fingerprint(self) -> str:
        """sha256 over settings, model files and prompts; 64 hex digits."""
        return self.layer_fingerprint(self.labels)

    def layer_fingerprint(self, labels: Mapping[int, Mapping[str, Any]]) -> str:
        """The fingerprint of a layer that asks other labels than the first one."""
        prompts = {str(label_id): list(label["prompts"]) for label_id, label in labels.items()}
        content = {"settings": dict(self.settings), "model_files": dict(self.model_files), "prompts": prompts}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The part of run.json that later starts are compared with."""
        return {
            "input_uri": self.input_uri,
            "settings": dict(self.settings),
            "model_files": dict(self.model_files),
            "labels": {str(label_id): dict(label) for label_id, label in self.labels.items()},
        }


def label_prompts(labels: Iterable[Label]) -> dict[int, dict[str, Any]]:
    """Labels as :class:`RunIdentity` has them."""
    return {label.id: {"name": label.name, "prompts": list(label.prompts)} for label in labels}


def read_json(store: RunStore, path: str) -> dict[str, Any] | None:
    """A JSON object of the run directory; None when the file does not exist."""
    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RunMismatchError(
            f"{store.location(path)} is not valid JSON ({error}). It was changed by hand or is not a run's file. "
            "Restore it, or label into a new run directory."
        ) from error
    if not isinstance(value, dict):
        raise RunMismatchError(f"{store.location(path)} holds {type(value).__name__}, expected a JSON object.")
    return value


def write_json(store: RunStore, path: str, value: Mapping[str, Any]) -> None:
    """Write or overwrite a JSON file of the run directory, atomically."""
    store.replace(path, encode_json(value))


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Readable, stable JSON."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def find_run(store: RunStore) -> dict[str, Any] | None:
    """run.json; None where there is no run.

    Raises:
        RunMismatchError: A newer version of this package made it.
    """
    run = read_json(store, RUN_PATH)
    if run is not None and run.get("format_version", 1) > FORMAT_VERSION:
        raise RunMismatchError(
            f"The run in {store.uri} has format {run['format_version']}; this version of sam3lt reads formats up to "
            f"{FORMAT_VERSION}. Use the version that made it, or a newer one."
        )
    return run


def read_run(store: RunStore) -> dict[str, Any]:
    """run.json of an existing run.

    Raises:
        InputError: There is no run here.
        RunMismatchError: A newer version of this package made it.
    """
    run = find_run(store)
    if run is None:
        raise InputError(
            f"{store.uri} is not a run directory: it has no {RUN_PATH}. Give the directory that `sam3lt label` "
            "printed, or the value of run.output."
        )
    return run


def create_or_verify(store: RunStore, identity: RunIdentity, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write run.json if this is the first start, else compare with the one that stands there.

    Args:
        store: The run directory.
        identity: What this start would label with.
        content: Further content of a new run.json (resolved config, packages, time).

    Returns:
        The run.json in force.

    Raises:
        RunMismatchError: The run was made with something else; every difference is named with both values.
    """
    new = {
        "format_version": FORMAT_VERSION,
        "fingerprint": identity.fingerprint,
        **content,
        "identity": identity.to_json(),
    }
    if store.create(RUN_PATH, encode_json(new)):
        return dict(new)
    existing = read_run(store)
    refuse_differences(store, compare_identity(existing.get("identity", {}), identity.to_json()))
    return existing


def refuse_differences(store: RunStore, differences: Sequence[str]) -> None:
    """Raise unless there are none.

    Args:
        store: The run directory.
        differences: Lines of :func:`compare_identity`.

    Raises:
        RunMismatchError: Names the differences with both values.
    """
    if not differences:
        return
    more = [f"... and {len(differences) - _MAX_NAMED} more"] if len(differences) > _MAX_NAMED else []
    raise RunMismatchError(
        f"The run in {store.uri} was made with other settings that change labels:\n"
        + "\n".join(f"  {line}" for line in [*differences[:_MAX_NAMED], *more])
        + "\nUse the run's settings, start another run with --fork NEW_RUN, or discard this one with "
        "--on-exists overwrite."
    )


def fix_precision(store: RunStore, precision: str) -> None:
    """Hold a run to the precision that its first labeling start resolved ``compute.precision`` to.

    "auto" depends on the device, and half a run in bf16 would be two kinds of labels in one.

    Args:
        store: The run directory.
        precision: "fp32" or "bf16".

    Raises:
        RunMismatchError: The run was begun with the other one.
    """
    if store.create(PRECISION_PATH, encode_json({"precision": precision})):
        return
    begun_with = (read_json(store, PRECISION_PATH) or {}).get("precision")
    if begun_with != precision:
        raise RunMismatchError(
            f"The run in {store.uri} was begun in {begun_with}, and here compute.precision comes to {precision}. "
            f"Set compute.precision to {begun_with}, or label into another run.output."
        )


def compare_identity(existing: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Every difference between two identities (:meth:`RunIdentity.to_json`), one line each with both values.

    Labels are not compared: a run may get others (:mod:`sam3lt_ray.vocabulary.history`).
    """
    before, now = _flatten(existing), _flatten(current)
    return [
        f"{name}: the run has {_show(before, name)}, now it is {_show(now, name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, _MISSING) != now.get(name, _MISSING)
    ]


_MISSING: Final = object()


def _show(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "nothing"


def _flatten(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Names as a person knows them: setting names bare, the rest with where it belongs."""
    flat: dict[str, Any] = {"input.uri": identity.get("input_uri")}
    flat.update(identity.get("settings", {}))
    for name, digest in identity.get("model_files", {}).items():
        flat[f"model file {name}"] = digest
    return flat
