"""What is made from the schema for people and editors: a first config, and the JSON schema."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from sam3lt_ray.config.schema import Config, InputFormat

_EXAMPLE_URI: dict[str, str] = {
    "webdataset": "data/shards/",
    "parquet": "data/images.parquet",
    "folder": "data/images/",
    "manifest": "data/manifest.csv",
}
_HEAD = """\
# Settings of a run. What is commented out shows the default; `sam3lt config show -c THIS` prints what is in force.
# Credentials never stand here: they come from the environment, an AWS profile or the instance's role.
"""


def render_template(input_format: InputFormat) -> str:
    """A config that is valid as it stands: required keys filled in with examples, all others as comments.

    Args:
        input_format: Kind of input the example is for.
    """
    values = {
        "run.output": "runs/first",
        "input.format": input_format,
        "input.uri": _EXAMPLE_URI[input_format],
        "vocabulary": ["red circle", "star", {"name": "box", "prompts": ["square", "blue square"]}],
        "model.checkpoint": "demo",
    }
    lines = [_HEAD]
    for name, field in Config.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            lines += _section_lines(name, annotation, values)
        else:
            lines += [f"# {field.description}", *_yaml_lines({name: values[name]}), ""]
    return "\n".join(lines)


def _section_lines(name: str, section: type[BaseModel], values: dict[str, Any]) -> list[str]:
    is_written = any(f"{name}.{key}" in values for key in section.model_fields)
    # A section that holds comments only would be null, which is a mistake: then its head is a comment, too.
    margin = "" if is_written else "# "
    lines = [f"{margin}{name}:"]
    for key, field in section.model_fields.items():
        value = values.get(f"{name}.{key}")
        mark = "# " if value is None and is_written else ""
        (text,) = _yaml_lines({key: field.default if value is None else value})
        lines += [f"{margin}  # {field.description}", f"{margin}  {mark}{text}"]
    return [*lines, ""]


def _yaml_lines(value: dict[str, Any]) -> list[str]:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
    return text.rstrip("\n").split("\n")


def config_json_schema() -> dict[str, Any]:
    """The JSON schema of a config file, for editors and other validators."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
