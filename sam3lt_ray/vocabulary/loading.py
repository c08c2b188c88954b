"""Reading a vocabulary: a YAML file, the built-in one, or a list that stands in the config."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam3lt_ray.errors import ConfigError
from sam3lt_ray.vocabulary.entries import Entry, PromptLimit, read_entry
from sam3lt_ray.vocabulary.ids import number_labels
from sam3lt_ray.vocabulary.labels import Label, Vocabulary
from sam3lt_ray.yaml_source import KeyPath, YamlDocument, format_value, nearest, read_yaml

BUILT_IN = "demo"
_BUILT_IN_PATH = Path(__file__).parent.parent / "demo" / "vocabulary.yaml"


def load_vocabulary(
    spec: str | list[Any] | dict[str, Any],
    *,
    base_dir: Path | None = None,
    written: YamlDocument | None = None,
    count_tokens: Callable[[str], int] | None = None,
    max_tokens: int | None = None,
) -> Vocabulary:
    """Read and check a vocabulary.

    Args:
        spec: Path of a YAML file, ``"demo"``, or what would stand in the file: the entries, alone or under ``labels``.
        base_dir: Where a relative path is looked for first; then in the current folder.
        written: Where entries that are no file were read, for messages.
        count_tokens: Tokens of a phrase, special ones included.
        max_tokens: How many the model's text encoder takes; checked only together with ``count_tokens``.

    Returns:
        Labels in file order. Ids are the given ones; labels without one are numbered on from the largest given id,
        or 1, 2, 3... A run keeps the ids it has: see :func:`sam3lt_ray.vocabulary.history.continue_labels`.

    Raises:
        ConfigError: Every mistake, one line each, naming file, line and entry.
    """
    if isinstance(spec, str):
        document = read_yaml(_find_file(spec, base_dir))
    else:
        document = written or YamlDocument(data=spec, source="vocabulary")
    raw_entries, path, problems = _find_entries(document)
    limit = PromptLimit(count_tokens, max_tokens) if count_tokens is not None and max_tokens is not None else None
    entries = [read_entry(raw, limit) for raw in raw_entries]
    problems += _describe_entry_problems(document, path, raw_entries, entries)
    if problems:
        raise ConfigError(problems)
    return _to_vocabulary(entries, document.source)


def _find_file(spec: str, base_dir: Path | None) -> Path:
    if spec == BUILT_IN:
        return _BUILT_IN_PATH
    path = Path(os.path.expanduser(spec))  # noqa: PTH111 -- pathlib's raises where there is no such user
    candidates = [path] if base_dir is None else [base_dir / path, path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = " nor ".join(dict.fromkeys(str(candidate) for candidate in candidates))
    raise ConfigError([f'vocabulary: there is no file {tried}. Expected a YAML file, or "{BUILT_IN}".'])


def _find_entries(document: YamlDocument) -> tuple[list[Any], KeyPath, list[str]]:
    """The raw entries, their path in the document, and mistakes of the document as a whole."""
    problems = list(document.problems)
    data = document.data
    path: KeyPath = ()
    if isinstance(data, dict):
        for key in data:
            if key != "labels":
                near = ' did you mean "labels"?' if nearest(key, ["labels"]) else " expected a list under `labels:`."
                problems.append(f"{document.locate((key,))}: {format_value(key)} is not a known key;{near}")
        if "labels" not in data:
            if not problems:
                problems.append(f"{document.source}: the vocabulary is empty; expected a list of labels.")
            return [], (), problems
        data, path = data["labels"], ("labels",)
    if data is None or data == []:
        problems.append(f"{document.locate(path)}: the vocabulary is empty; expected a list of labels.")
    elif not isinstance(data, list):
        problems.append(f"{document.locate(path)}: expected a list of labels, got {format_value(data)}.")
    return data if isinstance(data, list) else [], path, problems


def _describe_entry_problems(
    document: YamlDocument, path: KeyPath, raw_entries: list[Any], entries: list[Entry]
) -> list[str]:
    problems: list[str] = []
    first_with_name: dict[str, int] = {}
    first_with_id: dict[int, int] = {}
    for index, entry in enumerate(entries):
        found = list(entry.problems)
        if entry.name is not None:
            first = first_with_name.setdefault(entry.name.casefold(), index)
            if first != index:
                found.append((("name",), f"the name stands already in entry {first + 1}."))
        if entry.id is not None:
            first = first_with_id.setdefault(entry.id, index)
            if first != index:
                found.append((("id",), f"id {entry.id} stands already in entry {first + 1}."))
        shown_name = f" ({format_value(entry.name)})" if entry.name is not None else ""
        for entry_path, sentence in found:
            # A plain name is one line; its parts have no lines of their own.
            key_path = (*path, index) if isinstance(raw_entries[index], str) else (*path, index, *entry_path)
            problems.append(f"{document.locate(key_path)}: entry {index + 1}{shown_name}: {sentence}")
    return problems


def _to_vocabulary(entries: list[Entry], source: str) -> Vocabulary:
    named = [(entry.name, entry) for entry in entries if entry.name is not None]
    given = {name: entry.id for name, entry in named if entry.id is not None}
    ids = number_labels([name for name, _ in named], given)
    labels = tuple(Label(ids[name], name, entry.prompts, entry.threshold, entry.supercategory) for name, entry in named)
    own_prompts = frozenset(name for name, entry in named if entry.has_prompts)
    return Vocabulary(labels, source, frozenset(given), own_prompts)
