"""Turning validation errors into lines for people: file, line, key, what was expected, what stood there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from sam3lt_ray.config.expected import describe_expected, required_leaves, schema_at
from sam3lt_ray.yaml_source import KeyPath, format_path, format_value, nearest

Origins = dict[KeyPath, str]


@dataclass(frozen=True)
class Problem:
    """One mistake, as a complete line.

    Attributes:
        line: ``file:line: key ...``.
        is_missing_key: The mistake is that a required key is written nowhere.
    """

    line: str
    is_missing_key: bool = False


_CREDENTIAL_WORDS = ("secret", "token", "password", "access_key", "credential")


def describe_problems(
    error: ValidationError,
    model: type[BaseModel],
    data: Mapping[str, Any],
    origins: Origins,
    sources: str,
    prefix: KeyPath = (),
) -> list[Problem]:
    """One line per mistaken key.

    Args:
        error: What pydantic found.
        model: The model that was validated.
        data: The merged data it was given.
        origins: ``file:line`` where each key was last set.
        sources: What to name for a key that stands nowhere.
        prefix: Path of the model inside the whole config.

    Returns:
        The mistakes in the order in which the keys stand in the schema.
    """
    schema = model.model_json_schema()
    problems: list[Problem] = []
    missing: list[tuple[KeyPath, Problem]] = []
    near_keys: list[KeyPath] = []
    # A union reports one error per member; the line speaks about the key, once.
    for path, details in {_data_path(details, data): details for details in error.errors()}.items():
        place = _locate(path, origins, sources)
        name = format_path((*prefix, *path)) or "the config"
        if details["type"] == "missing":
            # A missing section is told as the keys it must have: those are what the user has to write.
            for leaf, description in required_leaves(schema, path):
                line = f"{place}: {format_path((*prefix, *leaf))} is missing: {description}"
                problems.append(Problem(line, is_missing_key=True))
                missing.append((leaf, problems[-1]))
        elif details["type"] == "extra_forbidden":
            misspelt, hint = _find_misspelt(schema, path)
            near_keys += [misspelt] if misspelt else []
            problems.append(Problem(f"{place}: {_unknown_key(name, path, hint)}"))
        else:
            problems.append(Problem(f"{place}: {name}: {_wrong_value(dict(details), schema, data, path)}"))
    # A misspelt key is one mistake: that the right one is missing, or all that a section must have, follows from it.
    implied = [problem for leaf, problem in missing if any(leaf[: len(near)] == near for near in near_keys)]
    return [problem for problem in problems if problem not in implied]


def _data_path(details: Mapping[str, Any], data: Any) -> KeyPath:
    """Keep of pydantic's location what leads through the data, leaving out the names of union members."""
    path: list[str | int] = []
    loc = details["loc"]
    for position, part in enumerate(loc):
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif position < len(loc) - 1 or details["type"] != "missing":
            continue  # a union member; only a missing key is not in the data
        path.append(part)
    return tuple(path)


def _locate(path: KeyPath, origins: Origins, sources: str) -> str:
    for length in range(len(path), -1, -1):
        if (place := origins.get(path[:length])) is not None:
            return place
    return sources


def _wrong_value(details: Mapping[str, Any], schema: Mapping[str, Any], data: Mapping[str, Any], path: KeyPath) -> str:
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    value: Any = data
    for part in path:
        value = value[part]
    return f"expected {describe_expected(schema, schema_at(schema, path))}, got {format_value(value)}."


def _unknown_key(name: str, path: KeyPath, hint: str) -> str:
    if any(word in str(path[-1]).lower() for word in _CREDENTIAL_WORDS):
        return (
            f"{name} is not a key: credentials never stand in a config; they come from the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), a profile or the instance's role."
        )
    return f"{name} is not a known key{hint}"


def _find_misspelt(schema: Mapping[str, Any], path: KeyPath) -> tuple[KeyPath, str]:
    """The key that was probably meant (empty path: none is near), and how to say so."""
    key = str(path[-1])
    siblings = schema_at(schema, path[:-1]).get("properties", {})
    if (near := nearest(key, siblings)) is not None:
        return (*path[:-1], near), f'; did you mean "{near}"?'
    for section in schema["properties"]:
        if key in schema_at(schema, (section,)).get("properties", {}):
            return (section, key), f'; did you mean "{section}.{key}"?'
    return (), f"; known are: {', '.join(siblings)}."
