"""Vocabularies in all their forms, and the answer to mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.errors import ConfigError
from sam3lt_ray.vocabulary import Label, Vocabulary, load_vocabulary
from sam3lt_ray.yaml_source import parse_yaml

CONFIGS = Path(__file__).parents[3] / "configs"


def count_words(text: str) -> int:
    return len(text.split()) + 2


def problems_of(spec: str | list[Any] | dict[str, Any], base_dir: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_vocabulary(spec, base_dir=base_dir, count_tokens=count_words, max_tokens=5)
    return caught.value.problems


@pytest.mark.parametrize(
    "text", ["- cat\n- hot dog\n", "labels:\n  - cat\n  - hot dog\n", "labels: [cat, hot   dog]\n"]
)
def test_plain_names_are_labels_with_their_name_as_prompt(tmp_path: Path, text: str) -> None:
    path = tmp_path / "v.yaml"
    path.write_text(text, encoding="utf-8")
    vocabulary = load_vocabulary(str(path))
    assert vocabulary.labels == (Label(1, "cat", ("cat",)), Label(2, "hot dog", ("hot dog",)))
    assert vocabulary.source == str(path)


def test_full_entries_keep_what_they_say() -> None:
    entry = {"id": 7, "name": "bike", "prompts": ["bicycle", "bike"], "threshold": 1, "supercategory": "vehicle"}
    vocabulary = load_vocabulary([entry, "cat"])
    assert vocabulary.labels[0] == Label(7, "bike", ("bicycle", "bike"), 1.0, "vehicle")
    assert vocabulary.labels[1] == Label(8, "cat", ("cat",)), "numbered on from the largest given id"
    assert vocabulary.names_with_given_id == {"bike"}


def test_prompts_are_flattened_in_order() -> None:
    vocabulary = load_vocabulary([{"name": "a", "prompts": ["x", "y"]}, "b"])
    assert vocabulary.prompts == [(0, 0, "x"), (0, 1, "y"), (1, 0, "b")]
    assert vocabulary.label_ids == [1, 2]


def test_yaml_words_that_look_like_booleans_are_names(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("- no\n- on\n- yes\n", encoding="utf-8")
    assert [label.name for label in load_vocabulary("v.yaml", base_dir=tmp_path).labels] == ["no", "on", "yes"]


def test_relative_path_is_looked_for_beside_the_config_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder, name in [(beside, "cat"), (here, "dog")]:
        folder.mkdir()
        (folder / "v.yaml").write_text(f"- {name}\n", encoding="utf-8")
    monkeypatch.chdir(here)
    assert load_vocabulary("v.yaml", base_dir=beside).labels[0].name == "cat"
    assert load_vocabulary("v.yaml", base_dir=tmp_path).labels[0].name == "dog"
    assert load_vocabulary("v.yaml").labels[0].name == "dog"


def test_all_mistakes_of_a_file_are_told_with_line_and_entry(tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    path.write_text(
        """\
labels:
  - cat
  - Cat
  - {id: 3, name: dog, prompts: [a dog, "", a  Dog]}
  - id: 3
    nam: horse
    threshold: 2
  - 5
  - name: sheep
    prompts: []
  - name: a long name of many words
  - name: cow
    prompts: one
    supercategory: [farm]
  - id: -1
    name: " "
lables: 3
""",
        encoding="utf-8",
    )
    assert problems_of("v.yaml", tmp_path) == [
        f'{path}:17: "lables" is not a known key; did you mean "labels"?',
        f'{path}:3: entry 2 ("Cat"): the name stands already in entry 1.',
        f'{path}:4: entry 3 ("dog"): prompt 2 is empty.',
        f'{path}:4: entry 3 ("dog"): prompt 3 ("a Dog") stands there twice.',
        f'{path}:6: entry 4: "nam" is not a known key; did you mean "name"?',
        f"{path}:7: entry 4: threshold must be a number from 0 to 1, got 2.",
        f"{path}:5: entry 4: id 3 stands already in entry 3.",
        f"{path}:8: entry 5: expected a name or a mapping with a name, got 5.",
        f'{path}:10: entry 6 ("sheep"): prompts is an empty list; leave it out to use the name.',
        f'{path}:11: entry 7 ("a long name of many words"): prompt 1 ("a long name of many words") has 8 tokens; '
        "the model's text encoder takes 5. Shorten it.",
        f'{path}:13: entry 8 ("cow"): prompts must be a list of phrases, got "one".',
        f'{path}:14: entry 8 ("cow"): supercategory must be a text, got ["farm"].',
        f"{path}:16: entry 9: the name is empty.",
        f"{path}:15: entry 9: id must be a whole number from 0 to 2147483647, got -1.",
    ]


@pytest.mark.parametrize("text", ["", "[]", "labels:\n", "labels: []\n", "{}"])
def test_an_empty_vocabulary_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.yaml").write_text(text, encoding="utf-8")
    (problem,) = problems_of("v.yaml", tmp_path)
    assert "the vocabulary is empty" in problem
    assert str(tmp_path / "v.yaml") in problem


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": True}, "name must be a text, got true"),
        ({"prompts": ["x"]}, "a name is missing"),
        ({"name": "x", "prompts": [3]}, "prompt 1 must be a text, got 3"),
        ({"name": "x", "id": True}, "id must be a whole number"),
        ({"name": "x", "id": "3"}, "id must be a whole number"),
        ({"name": "x", "id": 2**31}, "id must be a whole number"),
        ({"name": "x", "threshold": "high"}, "threshold must be a number"),
        ({"name": "x", "colour": 1}, '"colour" is not a known key; known are: id, name'),
        (None, "expected a name or a mapping"),
    ],
)
def test_mistakes_of_inline_entries_name_the_entry(entry: object, words: str) -> None:
    (problem,) = problems_of(["good", entry])
    assert problem.startswith("vocabulary: entry 2")
    assert words in problem


def test_an_empty_inline_list_is_refused() -> None:
    assert problems_of([]) == ["vocabulary: the vocabulary is empty; expected a list of labels."]


def test_absent_file_is_named_with_what_was_tried(tmp_path: Path) -> None:
    (problem,) = problems_of("absent.yaml", tmp_path)
    assert str(tmp_path / "absent.yaml") in problem


def test_a_vocabulary_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("labels: cat\n", encoding="utf-8")
    assert problems_of("v.yaml", tmp_path) == [f'{tmp_path / "v.yaml"}:1: expected a list of labels, got "cat".']


def test_coco80_has_the_official_ids() -> None:
    vocabulary = load_vocabulary(str(CONFIGS / "vocabularies" / "coco80.yaml"))
    by_name = {label.name: label for label in vocabulary.labels}
    assert len(by_name) == 80
    assert set(range(1, 91)) - set(vocabulary.label_ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    known = {"person": 1, "stop sign": 13, "backpack": 27, "bottle": 44, "dining table": 67, "tv": 72, "book": 84}
    assert {name: by_name[name].id for name in known} == known
    assert by_name["toothbrush"] == Label(90, "toothbrush", ("toothbrush",), None, "indoor")


def test_built_in_and_shipped_demo_vocabulary_are_the_same() -> None:
    built_in = load_vocabulary("demo")
    assert len(built_in.labels) == 20
    assert load_vocabulary(str(CONFIGS / "vocabularies" / "demo.yaml")) == built_in


def test_json_keeps_everything() -> None:
    entry = {"id": 7, "name": "bike", "prompts": ["bicycle", "bike"], "threshold": 0.4, "supercategory": "vehicle"}
    vocabulary = load_vocabulary([entry, "cat"])
    again = Vocabulary.from_json(vocabulary.to_json())
    assert again == vocabulary
    assert again.names_with_given_id == {"bike", "cat"}
    assert again.by_id(8).name == "cat"
    with pytest.raises(KeyError):
        again.by_id(1)


def test_entries_in_a_mapping_are_read_as_in_a_file() -> None:
    assert load_vocabulary({"labels": ["cat", {"name": "dog"}]}).labels == load_vocabulary(["cat", "dog"]).labels
    assert problems_of({"red circle": ["disc"]}) == [
        'vocabulary: "red circle" is not a known key; expected a list under `labels:`.'
    ]


def test_mistakes_in_entries_that_stand_elsewhere_name_their_lines() -> None:
    text = "a: 1\nvocabulary:\n  - cat\n  - name: dog\n    promts: [x]\n"
    written = parse_yaml(text, "job.yaml").part("vocabulary")
    with pytest.raises(ConfigError, match=r'^job.yaml:5: entry 2 \("dog"\): "promts" is not a known key'):
        load_vocabulary(written.data, written=written)
    empty = parse_yaml("a: 1\nvocabulary: []\n", "job.yaml").part("vocabulary")
    with pytest.raises(ConfigError, match=r"^job.yaml:2: the vocabulary is empty"):
        load_vocabulary(empty.data, written=empty)


def test_a_path_may_begin_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "v.yaml").write_text("- cat\n", encoding="utf-8")
    assert load_vocabulary("~/v.yaml", base_dir=tmp_path / "elsewhere").labels[0].name == "cat"
