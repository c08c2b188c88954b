"""``sam3lt config init``, ``show`` and ``schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sam3lt_ray.commands.options import AsJson, ConfigFiles, Overrides, print_json, read_job_config
from sam3lt_ray.config.schema import InputFormat
from sam3lt_ray.errors import UsageError

config_app = typer.Typer(help="Write, check and describe configs.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(config_app, name="config")


@config_app.command("init")
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to write it; - for standard output.")] = Path(
        "sam3lt.yaml"
    ),
    input_format: Annotated[InputFormat, typer.Option("--format", help="Kind of input.")] = "folder",
) -> None:
    """Write a first config that names every setting with its default."""
    from sam3lt_ray.config.template import render_template

    text = render_template(input_format)
    if str(file) == "-":
        print(text, end="")
        return
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{file} exists already; nothing was written. Name another file.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}.") from None
    print(f"Wrote {file}. Next: fill in run.output and input.uri, then `sam3lt plan -c {file}`.")


@config_app.command("show")
def show(config: ConfigFiles = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a config and print it complete with all defaults."""
    import yaml

    values = read_job_config(config, overrides).config.model_dump(mode="json")
    if as_json:
        print_json(values)
    else:
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


@config_app.command("schema")
def schema() -> None:
    """Print the JSON schema that gives editors completion and checks."""
    from sam3lt_ray.config.template import config_json_schema

    print(json.dumps(config_json_schema(), indent=2, ensure_ascii=False))
