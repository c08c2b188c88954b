"""From YAML files and ``a.b=value`` overrides to one validated :class:`Config`, or to all mistakes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sam3lt_ray.config.problems import Origins, describe_problems
from sam3lt_ray.config.schema import Config, Section, StorageSettings
from sam3lt_ray.errors import ConfigError
from sam3lt_ray.yaml_source import KeyPath, YamlDocument, format_value, parse_yaml, read_yaml

SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True)
class LoadedConfig:
    """A config and where it came from.

    Attributes:
        config: The validated settings.
        base_dir: Folder of the file that names the vocabulary: a relative vocabulary path is looked for there first.
            None where the vocabulary came from the command line.
        files: The files that were read, in order.
        inline_vocabulary: The labels that stand in the config itself, with their lines; None: it names them.
    """

    config: Config
    base_dir: Path | None
    files: tuple[Path, ...]
    inline_vocabulary: YamlDocument | None


@dataclass
class _Merged:
    """What files and overrides say together, with the place each key was last set."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)
    vocabulary_dir: Path | None = None
    vocabulary_document: YamlDocument | None = None
    problems: list[str] = field(default_factory=list)
    is_incomplete: bool = False  # a file could not be read: what is missing may stand there


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read, merge and validate.

    Args:
        files: YAML files; keys of later ones win, mappings are merged key by key, lists are replaced.
        overrides: ``section.key=value`` with the value in YAML; they win over all files, later ones over earlier.

    Returns:
        The config, complete with defaults.

    Raises:
        ConfigError: Every mistake, one line each, naming file, line and key.
    """
    paths = tuple(Path(file) for file in files)
    merged = _merge(paths, overrides)
    sources = [str(path) for path in paths] or ["config"]
    config = _validate(Config, merged, " + ".join(sources))
    written = merged.vocabulary_document
    inline = None if written is None or isinstance(config.vocabulary, str) else replace(written, data=config.vocabulary)
    return LoadedConfig(config=config, base_dir=merged.vocabulary_dir, files=paths, inline_vocabulary=inline)


def load_storage_settings(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> StorageSettings:
    """Read only the ``storage`` section, for commands that name their run directory themselves.

    Args:
        files: YAML files; they may lack everything but what is wanted here.
        overrides: As for :func:`load_config`, with keys under ``storage.``.

    Raises:
        ConfigError: Every mistake in that section, and every override of another section.
    """
    merged = _merge(tuple(Path(file) for file in files), overrides)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key.partition(".")[0] != "storage":
            merged.problems.append(f"--set: {key} has no meaning here, only storage.* has.")
    storage_only = _Merged(
        data=merged.data.get("storage") or {},
        origins={path[1:]: place for path, place in merged.origins.items() if path[0] == "storage"},
        problems=merged.problems,
    )
    return _validate(StorageSettings, storage_only, "storage", prefix=("storage",))


def _merge(paths: Sequence[Path], overrides: Sequence[str]) -> _Merged:
    merged = _Merged()
    for path in paths:
        try:
            document = read_yaml(path)
        except ConfigError as error:
            merged.problems += error.problems
            merged.is_incomplete = True
            continue
        merged.problems += document.problems
        if document.data is None:
            merged.problems.append(f"{path}: the file is empty.")
        elif not isinstance(document.data, dict):
            merged.problems.append(
                f"{path}: expected sections such as `run:` and `input:`, got {format_value(document.data)}."
            )
        else:
            _merge_mapping(merged, document.data, (), document)
            if "vocabulary" in document.data:
                merged.vocabulary_dir = path.parent
                merged.vocabulary_document = document.part("vocabulary")
    for override in overrides:
        _apply_override(merged, override)
    return merged


def _apply_override(merged: _Merged, override: str) -> None:
    # Only the key is repeated in messages: a value may be something that belongs in no log.
    dotted, equals, value_text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        merged.problems.append(f"--set {dotted}: expected section.key=value, such as labeling.score_floor=0.3.")
        return
    try:
        value = parse_yaml(value_text, "--set")
    except ConfigError:
        merged.problems.append(f"--set: {dotted}: the value is not valid YAML (quote it where it has special signs).")
        return
    merged.problems += value.problems
    nested: Any = value.data
    for key in reversed(keys):
        nested = {key: nested}
    _merge_mapping(merged, nested, (), YamlDocument(data=nested, source="--set"))
    if keys[0] == "vocabulary":
        merged.vocabulary_dir = None
        merged.vocabulary_document = YamlDocument(data=None, source="--set: vocabulary")


def _merge_mapping(merged: _Merged, incoming: Mapping[str, Any], path: KeyPath, document: YamlDocument) -> None:
    target: Any = merged.data
    for part in path:
        target = target[part]
    for key, value in incoming.items():
        key_path = (*path, key)
        merged.origins[key_path] = document.locate(key_path)
        if isinstance(value, dict):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            _merge_mapping(merged, value, key_path, document)
        else:
            target[key] = value


def _validate(model: type[SectionT], merged: _Merged, sources: str, prefix: KeyPath = ()) -> SectionT:
    problems = list(merged.problems)
    section: SectionT | None = None
    try:
        section = model.model_validate(merged.data)
    except ValidationError as error:
        found = describe_problems(error, model, merged.data, merged.origins, sources, prefix)
        problems += [problem.line for problem in found if not (merged.is_incomplete and problem.is_missing_key)]
    if problems or section is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    return section
