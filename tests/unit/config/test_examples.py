"""What is made from the schema is current, and what ships as an example is valid."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import get_args

import pytest
import yaml

from sam3lt_ray.config.load import load_config
from sam3lt_ray.config.schema import InputFormat
from sam3lt_ray.config.template import config_json_schema, render_template
from sam3lt_ray.vocabulary.loading import load_vocabulary

CONFIGS = Path(__file__).parents[3] / "configs"
EXAMPLES = sorted(CONFIGS.glob("*.yaml"))


def test_there_is_an_example_of_every_input_format() -> None:
    formats = {load_config([path]).config.input.format for path in EXAMPLES}
    assert formats == set(get_args(InputFormat))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_loads_with_its_vocabulary(path: Path) -> None:
    loaded = load_config([path])
    assert load_vocabulary(loaded.config.vocabulary, base_dir=loaded.base_dir).labels
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=schema.json\n")


def test_schema_file_is_current() -> None:
    stored = json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8"))
    assert stored == config_json_schema(), "write it anew: sam3lt config schema > configs/schema.json"


@pytest.mark.parametrize("input_format", get_args(InputFormat))
def test_template_is_valid_as_it_stands(tmp_path: Path, input_format: InputFormat) -> None:
    path = tmp_path / "first.yaml"
    path.write_text(render_template(input_format), encoding="utf-8")
    config = load_config([path]).config
    assert config.input.format == input_format


def test_template_shows_every_default(tmp_path: Path) -> None:
    text = render_template("folder")
    path = tmp_path / "first.yaml"
    path.write_text(text, encoding="utf-8")
    shown = {line.strip("# ") for line in text.splitlines()}
    for section, values in load_config([path]).config.model_dump(mode="json").items():
        for key, value in values.items() if isinstance(values, dict) else ():
            line = yaml.safe_dump({key: value}).strip()
            assert line in shown, f"{section}.{key} is not in the template"


def test_config_pickles_and_cannot_be_changed() -> None:
    config = load_config([EXAMPLES[0]]).config
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ValueError, match="frozen"):
        config.run.output = "elsewhere"  # type: ignore[misc]
