"""``sam3lt bench``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sam3lt_ray.errors import UsageError

if TYPE_CHECKING:
    from sam3lt_ray.benchmark.report import BenchmarkReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


def bench(
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="full: random weights in the published size (default); tiny: the same, small everywhere; demo; or a "
            "folder."
        ),
    ] = None,
    prompts: Annotated[
        list[int] | None,
        typer.Option("--prompts", "-V", min=1, metavar="V", help="Only vocabularies of this size; repeatable."),
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only documented, compiled or sam3lt; repeatable."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute on a CPU with the demo checkpoint: to see that it works.")
    ] = False,
    device: Annotated[Literal["auto", "cuda", "cpu"], typer.Option(help="Where to run.")] = "auto",
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Whether `compiled` uses torch.compile. Default: on a GPU."),
    ] = None,
    budget_minutes: Annotated[
        float, typer.Option(help="Time for all together; what does not begin in time is left out.")
    ] = 5.0,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images per pass for everybody. Default: as suits each.")
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here, with machine and versions.")
    ] = None,
) -> None:
    """Compare this package with transformers: the documented loop, a compiled version of it, and ours, in one run.

    On a GPU the default takes about 5 minutes; set-up and what was last begun come on top. Which prompts are present is
    forced, so weights need not know anything. Exit code 1: a contender failed, or masks differ.
    """
    if json_path is not None and not json_path.parent.is_dir():
        raise UsageError(f"--json {json_path}: there is no folder {json_path.parent}.")

    from sam3lt_ray.benchmark.options import BenchmarkOptions
    from sam3lt_ray.benchmark.run import run_benchmark
    from sam3lt_ray.benchmark.tables import render

    options = BenchmarkOptions(
        checkpoint=checkpoint,
        prompt_counts=tuple(prompts or ()),
        contenders=tuple(contender or ()),
        device=device,
        compile=compiled,
        budget_minutes=budget_minutes,
        quick=quick,
        num_images=images,
    )

    def save(so_far: BenchmarkReport) -> None:
        if json_path is not None:
            json_path.write_text(json.dumps(so_far.to_json(), indent=1) + "\n", encoding="utf-8")

    report = run_benchmark(options, lambda text: print(text, file=sys.stderr, flush=True), save)
    print(render(report))
    raise typer.Exit(report.exit_code)
