"""YAML with line numbers, and YAML 1.2's scalars."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sam3lt_ray.errors import ConfigError
from sam3lt_ray.yaml_source import format_path, format_value, nearest, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("12:30", "12:30"),
        ("007", "007"),
        ("-5", -5),
        ("1_000", 1000),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("1.", 1.0),
        ("'3'", "3"),
        ("0x10", "0x10"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    data = parse_yaml(f"key: {text}", "f").data["key"]
    assert data == value
    assert type(data) is type(value)


def test_other_users_of_pyyaml_are_left_alone() -> None:
    assert yaml.safe_load("no") is False


def test_lines_of_keys_and_items_are_kept() -> None:
    document = parse_yaml("a:\n  b: 1\n  c:\n    - x\n    - {d: 2,\n       e: 3}\n", "f.yaml")
    assert document.locate(("a", "b")) == "f.yaml:2"
    assert document.locate(("a", "c", 1)) == "f.yaml:5"
    assert document.locate(("a", "c", 1, "e")) == "f.yaml:6"
    assert document.locate(("a", "c", 1, "absent")) == "f.yaml:5"
    assert document.locate(("absent",)) == "f.yaml"


def test_repeated_keys_are_problems_and_the_first_stays() -> None:
    document = parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n", "f.yaml")
    assert document.data == {"a": 1, "b": {"c": 1}}
    assert document.problems == [
        "f.yaml:2: b.c stands here a second time (first in line 2).",
        "f.yaml:3: a stands here a second time (first in line 1).",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1, 2", 1),
        ("x: 1\na: b: c", 2),
        ("\tx: 1", 1),
        ("--- 1\n--- 2", 2),
        ("a: &a [*a]", 1),
        ("x: 1\n- !!python/object:os.system x", 2),
        ("a: !unknown x", 1),
        ("a: 'open", 1),
    ],
)
def test_a_syntax_error_is_one_line_with_its_place(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith(f"f.yaml:{line}: not valid YAML: ")
    assert "\n" not in problem


@pytest.mark.parametrize("text", ["a\x00b", "!!int x"])
def test_text_that_is_not_yaml_at_all_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml(text, "f.yaml")


def test_aliases_work() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x\n", "f").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]  # 10 billion values
    with pytest.raises(ConfigError, match=r"bomb\.yaml:1: .*aliases stand for more than 10,000 values"):
        parse_yaml("\n".join(lines), "bomb.yaml")


def test_many_values_without_aliases_are_fine() -> None:
    assert len(parse_yaml("\n".join(f"- label {n}" for n in range(12_000)), "f").data) == 12_000


def test_lists_nested_without_end_are_refused() -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_yaml("[" * 5_000, "f")


@pytest.mark.parametrize("tag", ["!!python/name:os.system", "!anything x", "!!python/object:os.stat_result x"])
def test_tags_make_no_objects(tag: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml(f"a: {tag}", "f")
    assert parse_yaml("a: !!python/object/apply:os.system ['true']", "f").data == {"a": ["true"]}


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: caf\xe9\n")
    for path, words in [
        (tmp_path / "absent.yaml", "there is no such file"),
        (tmp_path, "this is a folder"),
        (latin, "not a text file in UTF-8"),
    ]:
        with pytest.raises(ConfigError, match=words):
            read_yaml(path)


def test_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path).data == {"a": 1}


def test_paths_and_values_are_readable() -> None:
    assert format_path(("labels", 3, "id")) == "labels[3].id"
    assert format_value(True) == "true"
    assert format_value("ü" * 100).endswith("...")
    assert len(format_value("x" * 100)) == 60
    assert nearest("scoreflor", ["score_floor", "merge_iou"]) == "score_floor"
    assert nearest("zebra", ["score_floor", "merge_iou"]) is None
