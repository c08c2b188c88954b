"""What a key expects, in words, read from the JSON schema so that it cannot drift from the checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sam3lt_ray.yaml_source import KeyPath, format_value

_BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
)
_NOUNS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "a section with keys",
}


def resolve(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a ``$ref`` inside the schema."""
    reference = node.get("$ref")
    if reference is None:
        return node
    resolved: Mapping[str, Any] = schema["$defs"][reference.rpartition("/")[2]]
    return resolved


def schema_at(schema: Mapping[str, Any], path: KeyPath) -> Mapping[str, Any]:
    """The schema of a key; empty where the path leads out of what is described."""
    node = schema
    for part in path:
        node = resolve(schema, node.get("properties", {}).get(part, {}))
    return node


def describe_expected(schema: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """A phrase such as ``a whole number (at least 1), or "auto"``."""
    node = resolve(schema, node)
    if "anyOf" in node:
        return ", or ".join(describe_expected(schema, member) for member in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(format_value(choice) for choice in node["enum"])
    if "const" in node:
        return format_value(node["const"])
    if node.get("type") == "string":
        return "a text that is not empty" if node.get("minLength") else "a text"
    bounds = [f"{words} {format_value(node[keyword])}" for keyword, words in _BOUNDS if keyword in node]
    noun = _NOUNS.get(node.get("type", ""), "another value")
    return f"{noun} ({' and '.join(bounds)})" if bounds else noun


def required_leaves(schema: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every key that must be written under a path, with its description; the path itself where it is a leaf."""
    node = schema_at(schema, path)
    if "properties" not in node:
        yield path, str(node.get("description", "required."))
        return
    for name in node.get("required", []):
        yield from required_leaves(schema, (*path, name))
