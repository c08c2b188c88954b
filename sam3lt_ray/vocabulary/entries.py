"""One entry of a vocabulary, from whatever stands in the YAML to checked values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam3lt_ray.yaml_source import KeyPath, format_value, nearest

MAX_LABEL_ID = 2**31 - 1  # ids are stored as int32
ENTRY_KEYS = ("id", "name", "prompts", "threshold", "supercategory")


@dataclass(frozen=True)
class PromptLimit:
    """The tokenizer's context.

    Attributes:
        count_tokens: Tokens of a phrase, special ones included.
        max_tokens: How many the text encoder takes.
    """

    count_tokens: Callable[[str], int]
    max_tokens: int


@dataclass
class Entry:
    """The usable parts of an entry; None where nothing usable stands there.

    Attributes:
        problems: (path of the key inside the entry, sentence) for each mistake.
        has_prompts: The prompts were written down; otherwise the name is the prompt.
    """

    problems: list[tuple[KeyPath, str]]
    has_prompts: bool = False
    id: int | None = None
    name: str | None = None
    prompts: tuple[str, ...] = ()
    threshold: float | None = None
    supercategory: str | None = None


def read_entry(raw: Any, limit: PromptLimit | None) -> Entry:
    """Check one entry.

    Args:
        raw: A name, or a mapping with ``ENTRY_KEYS``.
        limit: How long a prompt may be; None: not checked.
    """
    entry = Entry(problems=[])
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, dict):
        entry.problems.append(((), f"expected a name or a mapping with a name, got {format_value(raw)}."))
        return entry
    for key in raw:
        if key not in ENTRY_KEYS:
            near = nearest(key, ENTRY_KEYS)
            hint = f'did you mean "{near}"?' if near else f"known are: {', '.join(ENTRY_KEYS)}."
            entry.problems.append(((key,), f"{format_value(key)} is not a known key; {hint}"))
    _read_name(raw, entry)
    _read_prompts(raw, entry, limit)
    _read_id(raw, entry)
    _read_threshold(raw, entry)
    supercategory = raw.get("supercategory")
    if supercategory is None or isinstance(supercategory, str):
        entry.supercategory = supercategory
    else:
        entry.problems.append((("supercategory",), f"supercategory must be a text, got {format_value(supercategory)}."))
    return entry


def _read_name(raw: dict[str, Any], entry: Entry) -> None:
    name = raw.get("name")
    if name is None:
        if not any(nearest(key, ENTRY_KEYS) == "name" for key in raw if key not in ENTRY_KEYS):
            entry.problems.append(((), "a name is missing."))
    elif not isinstance(name, str):
        entry.problems.append((("name",), f"name must be a text, got {format_value(name)} (put it in quotes)."))
    elif not name.strip():
        entry.problems.append((("name",), "the name is empty."))
    else:
        entry.name = " ".join(name.split())


def _read_prompts(raw: dict[str, Any], entry: Entry, limit: PromptLimit | None) -> None:
    prompts = raw.get("prompts")
    entry.has_prompts = prompts is not None
    if prompts is None:
        # Without prompts of its own the name is what the model is asked.
        prompts = [entry.name] if entry.name is not None else []
    elif not isinstance(prompts, list):
        entry.problems.append((("prompts",), f"prompts must be a list of phrases, got {format_value(prompts)}."))
        return
    elif not prompts:
        entry.problems.append((("prompts",), "prompts is an empty list; leave it out to use the name."))
        return
    texts: list[str] = []
    for position, prompt in enumerate(prompts, start=1):
        problem = _prompt_problem(prompt, texts, limit)
        if problem is None:
            texts.append(" ".join(prompt.split()))
        else:
            entry.problems.append((("prompts", position - 1), f"prompt {position} {problem}"))
    entry.prompts = tuple(texts)


def _prompt_problem(prompt: Any, earlier: list[str], limit: PromptLimit | None) -> str | None:
    if not isinstance(prompt, str):
        return f"must be a text, got {format_value(prompt)} (put it in quotes)."
    text = " ".join(prompt.split())
    if not text:
        return "is empty."
    if text.casefold() in {other.casefold() for other in earlier}:
        return f"({format_value(text)}) stands there twice."
    if limit is not None and (num_tokens := limit.count_tokens(text)) > limit.max_tokens:
        return (
            f"({format_value(text)}) has {num_tokens} tokens; the model's text encoder takes {limit.max_tokens}. "
            "Shorten it."
        )
    return None


def _read_id(raw: dict[str, Any], entry: Entry) -> None:
    label_id = raw.get("id")
    if label_id is None:
        return
    if isinstance(label_id, bool) or not isinstance(label_id, int) or not 0 <= label_id <= MAX_LABEL_ID:
        entry.problems.append(
            (("id",), f"id must be a whole number from 0 to {MAX_LABEL_ID}, got {format_value(label_id)}.")
        )
    else:
        entry.id = label_id


def _read_threshold(raw: dict[str, Any], entry: Entry) -> None:
    threshold = raw.get("threshold")
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        entry.problems.append(
            (("threshold",), f"threshold must be a number from 0 to 1, got {format_value(threshold)}.")
        )
    else:
        entry.threshold = float(threshold)
