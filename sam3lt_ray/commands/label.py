"""``sam3lt plan``, ``label`` and ``status``: before, during and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sam3lt_ray.commands.options import (
    AsJson,
    ConfigFiles,
    Overrides,
    RunLocation,
    locate_run,
    print_json,
    print_text,
    read_job_config,
)
from sam3lt_ray.config.schema import OnChanged, OnExists
from sam3lt_ray.logs import LogFormat

if TYPE_CHECKING:
    from sam3lt_ray.pipeline.summary import RunSummary

# Kubernetes ends a pod 30 s after it has asked it to stop.
STOPS_WITHIN_S: Final = 25.0

Changed = Annotated[
    OnChanged | None,
    typer.Option("--changed", help="When a shard's content has changed: stop, or replace its labels. Default: config."),
]
RetryErrors = Annotated[
    bool, typer.Option("--retry-errors", help="Make the rows again that have an error, and nothing else.")
]
Fork = Annotated[
    str | None,
    typer.Option(
        "--fork", metavar="NEW_RUN", help="Begin another run directory with these settings; no label is reused."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan")(plan)
    app.command("label")(label)
    app.command("status")(status)


def plan(
    config: ConfigFiles = None,
    overrides: Overrides = None,
    changed: Changed = None,
    retry_errors: RetryErrors = False,
    fork: Fork = None,
    price_per_gpu_hour: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            help="Estimate money: an hour of one GPU (without GPUs: of one actor) costs X. Implies --calibrate 64, "
            "unless there is --calibrate or --images-per-second.",
        ),
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Estimate time and output by labeling N images of the input here."),
    ] = None,
    images_per_second: Annotated[
        float | None,
        typer.Option(min=1e-9, metavar="R", help="Estimate time from a rate you know, of one GPU or actor."),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="GPUs (or actors) that will work. Default: with --calibrate those here, else compute.actors.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do, and what it would take, without starting Ray or writing anything.

    Ends with exit code 2 where the run would be refused.
    """
    # A mistake in the config is answered before anything heavy is imported; the same in all commands.
    loaded = read_job_config(config, with_changed(overrides, changed))

    from sam3lt_ray.pipeline.estimate import EstimateOptions
    from sam3lt_ray.pipeline.planning import plan_run

    options = EstimateOptions(price_per_gpu_hour, calibrate, images_per_second, gpus)
    estimate = None if options == EstimateOptions() else options
    report = plan_run(loaded.config, loaded.base_dir, retry_errors=retry_errors, fork=fork, estimate=estimate)
    if as_json:
        print_json(report.to_json())
    else:
        print_text(report.to_text().rstrip("\n"))
    raise typer.Exit(report.exit_code)


def label(
    config: ConfigFiles = None,
    overrides: Overrides = None,
    on_exists: Annotated[
        OnExists | None,
        typer.Option("--on-exists", help="When the run exists: continue it, start it anew, or stop. Default: config."),
    ] = None,
    changed: Changed = None,
    retry_errors: RetryErrors = False,
    fork: Fork = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="IMAGES", help="Stop after about this many images, in whole units.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Let Ray's own log lines through.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="json: progress and workers' logs as one JSON object per line.")
    ] = "text",
    as_json: AsJson = False,
) -> None:
    """Label what is missing of a run. The same command again continues it."""
    loaded = read_job_config(config, with_changed(overrides, changed))

    from sam3lt_ray.pipeline.run import label_run
    from sam3lt_ray.progress import progress_for_stderr
    from sam3lt_ray.redaction import without_credentials

    summary = label_run(
        loaded.config,
        base_dir=loaded.base_dir,
        on_exists=on_exists,
        retry_errors=retry_errors,
        fork=fork,
        progress=progress_for_stderr(without_credentials(loaded.config.run.output), log_format),
        limit=limit,
        verbose=verbose,
        log_format=log_format,
        stops_within_s=STOPS_WITHIN_S,
    )
    if as_json:
        print_json(summary.to_json())
    else:
        print_text("\n".join(describe_summary(summary)))
    raise typer.Exit(summary.exit_code)


def status(
    run: RunLocation = None, config: ConfigFiles = None, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Say how far a run is, from what stands in its directory."""
    uri, storage = locate_run(run, config, overrides)

    from sam3lt_ray.labels.status import read_run_state
    from sam3lt_ray.storage.store import open_store

    report = read_run_state(open_store(uri, storage))
    if as_json:
        print_json(report.to_json())
    else:
        print_text(report.to_text().rstrip("\n"))


def with_changed(overrides: list[str] | None, changed: OnChanged | None) -> list[str] | None:
    """``--changed`` as the override that it is."""
    return overrides if changed is None else [*(overrides or []), f"run.changed={changed}"]


def describe_summary(summary: RunSummary) -> list[str]:
    """The end of a run for a person: the outcome first, then this start's figures, then where things are."""
    lines = [summary.message]
    session: dict[str, Any] = summary.content.get("session", {})
    images: dict[str, int] = session.get("images", {})
    if session.get("units"):
        counts = ", ".join(f"{count:,} {name}" for name, count in images.items())
        rate = session.get("images_per_s")
        speed = f", {rate:.1f} images/s on {session['actors']} {session['device']} actors" if rate else ""
        lines.append(f"this start   {counts}{speed}, {session['wall_s']:.0f} s")
    shards: dict[str, int] = session.get("shards", {})
    if shards:
        told = ", ".join(
            f"{shards[name]:,} {name}" for name in ("new", "changed", "vanished", "finished") if shards[name]
        )
        num_open: int | None = summary.content["shards_open"]
        still_open = f"{'unknown' if num_open is None else f'{num_open:,}'} of {summary.content['shards']:,} open"
        lines.append(f"shards       {f'{told}; ' if told else ''}{still_open}")
    total: dict[str, int] | None = summary.content.get("images")
    if total is not None:
        lines.append("run so far   " + ", ".join(f"{count:,} {name}" for name, count in total.items()))
    errors: dict[str, int] | None = summary.content.get("errors")
    if errors:
        lines.append("error rows   " + ", ".join(f"{count:,} {kind}" for kind, count in errors.items()))
    lines.append(f"run          {summary.run_uri}")
    return lines
