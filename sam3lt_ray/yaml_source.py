"""Reading YAML so that a mistake can be answered with its file and line.

Scalars follow YAML 1.2, as editors do: only ``true`` and ``false`` are booleans (a label may be called ``no``), dates
are text, and ``1e-3`` is a number. A repeated key is a mistake instead of a silent overwrite.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sam3lt_ray.errors import ConfigError

KeyPath = tuple[str | int, ...]

# An alias stands for all that its anchor holds, and may stand in what another alias stands for: a few lines can become
# more values than there is memory. This many values may come from aliases; a text has as many others as it likes.
MAX_ALIASED_VALUES = 10_000


@dataclass(frozen=True)
class YamlDocument:
    """One parsed YAML text.

    Attributes:
        data: Plain lists, dicts and scalars; None for an empty text.
        source: Name of the text in messages, usually the file's path.
        lines: 1-based line of every key and list item, by its path.
        problems: Mistakes that do not prevent reading the rest (repeated keys), as complete lines.
    """

    data: Any
    source: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def locate(self, path: KeyPath) -> str:
        """``source:line`` of a path or of its nearest known parent; the source alone where there is none."""
        for length in range(len(path), -1, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return f"{self.source}:{line}"
        return self.source

    def part(self, key: str) -> YamlDocument:
        """What stands under a key of a mapping, as a document that knows its lines in this one."""
        lines = {path[1:]: line for path, line in self.lines.items() if path[0] == key}
        return YamlDocument(self.data[key], self.source, lines)


class _Yaml12Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's core scalars."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._built: set[int] = set()
        self._num_aliased = 0

    def count_value(self, node: yaml.Node) -> None:
        """Called for every value that is made of a node.

        Raises:
            yaml.MarkedYAMLError: Too many of them repeat what stands elsewhere.
        """
        if id(node) in self._built:
            self._num_aliased += 1
        self._built.add(id(node))
        if self._num_aliased > MAX_ALIASED_VALUES:
            problem = f"aliases stand for more than {MAX_ALIASED_VALUES:,} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


_SCALARS = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9_]*)$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
)
# A class attribute shared with the parent would change every other user of PyYAML in this process.
_Yaml12Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first_characters in _SCALARS:
    _Yaml12Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first_characters)


def read_yaml(path: Path) -> YamlDocument:
    """Read a YAML file.

    Raises:
        ConfigError: The file cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file."]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: this is a folder; a YAML file is expected."]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not a text file in UTF-8 (byte {error.start})."]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}."]) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> YamlDocument:
    """Parse YAML text.

    Args:
        text: One YAML document.
        source: Its name in messages.

    Raises:
        ConfigError: The text is not YAML, or not one document.
    """
    document = YamlDocument(data=None, source=source)
    try:
        loader = _Yaml12Loader(text)
        try:
            node = loader.get_single_node()
            data = _build(loader, node, (), document, ()) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, source)]) from None
    except RecursionError:
        raise ConfigError([f"{source}: not valid YAML: lists or mappings are nested too deeply."]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError([f"{source}: not valid YAML: {' '.join(str(error).split())}."]) from None
    return YamlDocument(data=data, source=source, lines=document.lines, problems=document.problems)


def _build(
    loader: _Yaml12Loader, node: yaml.Node, path: KeyPath, document: YamlDocument, parents: tuple[int, ...]
) -> Any:
    """Turn a node into plain data, noting the line of every key and list item."""
    line = node.start_mark.line + 1
    loader.count_value(node)
    if id(node) in parents:
        raise yaml.MarkedYAMLError(problem="an alias points to what contains it", problem_mark=node.start_mark)
    parents = (*parents, id(node))
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            document.lines[(*path, index)] = child.start_mark.line + 1
            items.append(_build(loader, child, (*path, index), document, parents))
        return items
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                document.problems.append(f"{document.source}:{line}: a key must be one word, not a list or mapping.")
                continue
            key_path = (*path, key)
            if key in mapping:
                document.problems.append(
                    f"{document.source}:{line}: {format_path(key_path)} stands here a second time "
                    f"(first in line {document.lines[key_path]})."
                )
                continue
            document.lines[key_path] = line
            mapping[key] = _build(loader, value_node, key_path, document, parents)
        return mapping
    return loader.construct_object(node, deep=True)


def _syntax_problem(error: yaml.MarkedYAMLError, source: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{source}:{mark.line + 1}" if mark is not None else source
    what = " ".join(part for part in (error.context, error.problem) if part)
    column = f" (column {mark.column + 1})" if mark is not None else ""
    return f"{where}: not valid YAML: {what or 'unknown reason'}{column}."


def format_path(path: KeyPath) -> str:
    """``("labels", 3, "id")`` as ``labels[3].id``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def format_value(value: object) -> str:
    """A value as it would stand in YAML, cut to a readable length."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant; None where none is near."""
    near = difflib.get_close_matches(word.lower(), list(candidates), n=1, cutoff=0.6)
    return near[0] if near else None
