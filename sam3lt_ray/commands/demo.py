"""``sam3lt demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sam3lt_ray.commands.options import AsJson, print_json, print_text


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything is put.")] = Path(
        "runs/demo"
    ),
    num_scenes: Annotated[int, typer.Option("--scenes", min=1, help="Scenes to render and label.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another seed renders other scenes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Render scenes, label them on this machine, score the labels against the truth, and write a report."""
    from sam3lt_ray.pipeline.demo import run_demo
    from sam3lt_ray.progress import progress_for_stderr

    report = run_demo(folder, num_scenes=num_scenes, seed=seed, progress=progress_for_stderr(str(folder)))
    if as_json:
        print_json(report.to_json())
    else:
        print_text(report.to_text().rstrip("\n"))
    raise typer.Exit(report.exit_code)
