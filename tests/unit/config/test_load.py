"""Merging, overrides, and the answer to mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.config.load import load_config, load_storage_settings
from sam3lt_ray.errors import ConfigError

MINIMAL = """\
run: {output: runs/x}
input: {format: folder, uri: images/}
vocabulary: [cat, dog]
"""


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(*files: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(files, overrides)
    return caught.value.problems


def test_minimal_config_is_completed_with_defaults(tmp_path: Path) -> None:
    loaded = load_config([write(tmp_path, MINIMAL)])
    assert loaded.config.run.output == "runs/x"
    assert loaded.config.labeling.score_floor == 0.2
    assert loaded.config.compute.actors == "auto"
    assert loaded.config.vocabulary == ["cat", "dog"]
    assert loaded.base_dir == tmp_path


def test_later_files_win_key_by_key_and_lists_are_replaced(tmp_path: Path) -> None:
    first = write(tmp_path, MINIMAL + "compute: {actors: 2, max_passes: 5}\n")
    (tmp_path / "other").mkdir()
    second = write(tmp_path / "other", "compute: {actors: 4}\nvocabulary: [horse]\n")
    loaded = load_config([first, second])
    assert (loaded.config.compute.actors, loaded.config.compute.max_passes) == (4, 5)
    assert loaded.config.vocabulary == ["horse"]
    assert loaded.base_dir == tmp_path / "other", "a vocabulary path starts from the file that names it"


def test_overrides_win_and_are_yaml(tmp_path: Path) -> None:
    overrides = ["compute.actors=3", "vocabulary=[a, {name: b}]", "storage.anonymous=true", "compute.actors=5"]
    loaded = load_config([write(tmp_path, MINIMAL)], overrides)
    assert loaded.config.compute.actors == 5
    assert loaded.config.vocabulary == ["a", {"name": "b"}]
    assert loaded.config.storage.anonymous is True
    assert loaded.base_dir is None


def test_override_may_be_empty_and_hold_equals_signs(tmp_path: Path) -> None:
    loaded = load_config([write(tmp_path, MINIMAL)], ["run.output=s3://b/a=b", "storage.region="])
    assert loaded.config.run.output == "s3://b/a=b"
    assert loaded.config.storage.region is None


def test_five_mistakes_are_five_lines_with_file_line_and_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
run: {outputs: runs/x}
input:
  format: webdatset
  uri: s3://bucket/x
  images_per_unit: 0
vocabulary: [cat]
labeling:
  score_flor: 0.2
compute:
  actors: many
""",
    )
    assert problems_of(path) == [
        f'{path}:1: run.outputs is not a known key; did you mean "output"?',
        f'{path}:3: input.format: expected one of "webdataset", "parquet", "folder", "manifest", got "webdatset".',
        f"{path}:5: input.images_per_unit: expected a whole number (at least 1), got 0.",
        f'{path}:8: labeling.score_flor is not a known key; did you mean "score_floor"?',
        f'{path}:10: compute.actors: expected a whole number (at least 1), or "auto", got "many".',
    ]


def test_missing_sections_are_told_as_the_keys_to_write(tmp_path: Path) -> None:
    path = write(tmp_path, "input:\n  format: folder\n")
    lines = problems_of(path)
    assert [line.split(" is missing")[0] for line in lines] == [
        f"{path}: run.output",
        f"{path}:1: input.uri",
        f"{path}: vocabulary",
    ]


def test_a_misspelt_section_is_one_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("input:", "inputs:"))
    assert problems_of(path) == [f'{path}:2: inputs is not a known key; did you mean "input"?']


def test_labels_in_the_config_are_a_list_or_stand_as_in_a_file(tmp_path: Path) -> None:
    text = MINIMAL.replace("vocabulary: [cat, dog]", "vocabulary:\n  labels:\n    - cat\n    - {name: dog}\n")
    loaded = load_config([write(tmp_path, text)])
    assert loaded.config.vocabulary == {"labels": ["cat", {"name": "dog"}]}
    assert loaded.inline_vocabulary is not None
    assert loaded.inline_vocabulary.locate(("labels", 1, "name")) == f"{tmp_path / 'config.yaml'}:6"
    overridden = load_config([write(tmp_path, text)], ["vocabulary=v.yaml"])
    assert (overridden.config.vocabulary, overridden.inline_vocabulary) == ("v.yaml", None)


def test_of_very_many_mistakes_the_first_ones_are_shown() -> None:
    error = ConfigError([f"mistake {number}" for number in range(25)])
    assert error.message.splitlines()[18:] == ["mistake 18", "mistake 19", "... and 5 more."]
    assert ConfigError(["one", "two"]).message == "one\ntwo"


def test_key_of_another_section_is_pointed_there(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "compute: {score_floor: 0.2}\n")
    assert problems_of(path) == [
        f'{path}:4: compute.score_floor is not a known key; did you mean "labeling.score_floor"?'
    ]


def test_problem_names_the_file_that_set_the_key(tmp_path: Path) -> None:
    first = write(tmp_path, MINIMAL, "first.yaml")
    second = write(tmp_path, "\ncompute: {device: gpu}\n", "second.yaml")
    lines = problems_of(first, second, overrides=("labeling.score_floor=2",))
    assert lines == [
        "--set: labeling.score_floor: expected a number (at least 0 and at most 1), got 2.",
        f'{second}:2: compute.device: expected one of "auto", "cpu", "cuda", got "gpu".',
    ]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("compute", "actors", "true"),
        ("compute", "actors", "1.5"),
        ("compute", "actors", '"3"'),
        ("compute", "cpus_per_actor", "0"),
        ("labeling", "score_floor", ".nan"),
        ("labeling", "mask_threshold", "1"),
        ("storage", "anonymous", '"yes"'),
        ("storage", "region", "7"),
        ("errors", "max_error_fraction", "1.5"),
        ("run", "output", '""'),
        ("model", "revision", "1234567"),
        ("compute", "actors", "{min: 2}"),
        ("compute", "actors.min", "2"),
        ("compute", "actors", "[2]"),
    ],
)
def test_wrong_values_are_refused_not_converted(tmp_path: Path, section: str, key: str, value: str) -> None:
    (line,) = problems_of(write(tmp_path, MINIMAL), overrides=(f"{section}.{key}={value}",))
    assert line.startswith(f"--set: {section}.{key.removesuffix('.min')}: expected ")


def test_mistakes_of_reading_are_told_together_with_the_others(tmp_path: Path) -> None:
    broken = write(tmp_path, "run: [", "broken.yaml")
    twice = write(tmp_path, MINIMAL + "compute:\n  actors: 1\n  actors: 2\n", "twice.yaml")
    lines = problems_of(tmp_path / "absent.yaml", broken, twice, overrides=("nonsense", "run.on_exists=[", "a.b=1"))
    assert lines[0] == f"{tmp_path / 'absent.yaml'}: there is no such file."
    assert lines[1].startswith(f"{broken}:1: not valid YAML")
    assert lines[2] == f"{twice}:6: compute.actors stands here a second time (first in line 5)."
    assert lines[3].startswith("--set nonsense: expected section.key=value")
    assert lines[4].startswith("--set: run.on_exists: the value is not valid YAML")
    assert lines[5].startswith("--set: a is not a known key")
    assert len(lines) == 6


def test_nothing_is_called_missing_when_a_file_could_not_be_read(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "absent.yaml") == [f"{tmp_path / 'absent.yaml'}: there is no such file."]


@pytest.mark.parametrize(("text", "words"), [("", "the file is empty"), ("- a\n", "expected sections")])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in problems_of(write(tmp_path, text))[0]


@pytest.mark.parametrize(
    "override",
    [
        "storage.endpoint_url=https://me:hunter2@s3.example.org",
        "input.uri=s3://me:hunter2@bucket/x",
        "run.output=s3://me:hunter2@bucket/x",
        "storage.secret_key=hunter2",
        "storage.aws_session_token=hunter2",
    ],
)
def test_credentials_are_refused_and_never_repeated(tmp_path: Path, override: str) -> None:
    (line,) = problems_of(write(tmp_path, MINIMAL), overrides=(override,))
    assert "credentials" in line
    assert "hunter2" not in line


def test_endpoint_must_be_a_url(tmp_path: Path) -> None:
    (line,) = problems_of(write(tmp_path, MINIMAL), overrides=("storage.endpoint_url=minio:9000",))
    assert "expected a url" in line


def test_a_section_must_be_a_mapping(tmp_path: Path) -> None:
    (line,) = problems_of(write(tmp_path, MINIMAL), overrides=("compute=3",))
    assert line == "--set: compute: expected a section with keys, got 3."


def test_storage_settings_alone_ignore_what_else_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "storage: {region: eu-central-1, profile: a}\n")
    settings = load_storage_settings([path], ["storage.profile=b"])
    assert (settings.region, settings.profile) == ("eu-central-1", "b")
    assert load_storage_settings([]).endpoint_url is None


def test_storage_settings_alone_refuse_other_overrides(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_storage_settings([], ["compute.actors=1", "storage.regio=x"])
    assert caught.value.problems == [
        "--set: compute.actors has no meaning here, only storage.* has.",
        '--set: storage.regio is not a known key; did you mean "region"?',
    ]
