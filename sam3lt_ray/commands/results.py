"""``sam3lt export``, ``evaluate`` and ``report``: what is made of a run's labels."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from sam3lt_ray.commands.options import AsJson, ConfigFiles, Overrides, RunLocation, locate_run, print_json, print_text
from sam3lt_ray.errors import InputError, StorageError
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.terminal import count_of, printable

ScoreThreshold = Annotated[
    float | None,
    typer.Option(
        "--score-threshold", min=0.0, max=1.0, help="For labels without one of their own. Default: the run's config."
    ),
]

export_app = typer.Typer(help="Write a run's labels in another form.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(export_app, name="export")
    app.command("compact")(compact)
    app.command("evaluate")(evaluate)
    app.command("report")(report)


@export_app.command("coco")
def export_coco(
    run: RunLocation = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    kind: Annotated[
        Literal["dataset", "results"],
        typer.Option(help="dataset: images, annotations and categories; results: a list of scored detections."),
    ] = "dataset",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, not into exports/coco of the run."),
    ] = None,
    score_threshold: ScoreThreshold = None,
    as_json: AsJson = False,
) -> None:
    """Write COCO JSON into the run directory, or elsewhere."""
    elsewhere = None if output is None else _folder_and_name(output)
    uri, storage = locate_run(run, config, overrides)

    from sam3lt_ray.exports.coco import export_coco as write_coco
    from sam3lt_ray.labels.completeness import read_completeness
    from sam3lt_ray.labels.reading import RunReader
    from sam3lt_ray.storage.store import open_store

    reader = RunReader(open_store(uri, storage))
    target, name = (reader.store, None) if elsewhere is None else (open_store(elsewhere[0], storage), elsewhere[1])
    completeness = read_completeness(reader)
    summary = write_coco(reader, target, kind=kind, score_threshold=score_threshold, path=name)
    _warn(completeness.remark())
    if as_json:
        print_json(asdict(summary) | completeness.to_json())
        return
    print_text(
        f"{count_of(summary.annotations, 'annotation' if kind == 'dataset' else 'detection')} in "
        f"{count_of(summary.images, 'image')}; left out: {count_of(summary.below_threshold, 'instance')} below the "
        f"threshold, {count_of(summary.skipped_images, 'image')} that could not be labeled"
    )
    if summary.partly_asked_images:
        print(
            f"{summary.partly_asked_images:,} images were not asked every label yet (their category_ids_not_asked says "
            "which); `sam3lt label` asks"
        )
    for location in summary.locations:
        print_text(location)


@export_app.callback()
def _export() -> None:
    """Keeps ``coco`` a subcommand while it is the only format."""


def compact(
    run: RunLocation = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder or s3:// uri; default: exports/compact in the run."),
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Rows per file, and not what fits --size.")] = None,
    size_mb: Annotated[int, typer.Option("--size", min=1, metavar="MB", help="Size of a file.")] = 512,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Take what an unfinished run has.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another compaction.")] = False,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Rewrite a run into few large Parquet files; the same command goes on where it was killed."""
    uri, storage = locate_run(run, config, overrides)

    from sam3lt_ray.exports.compact import DEFAULT_FOLDER, compact_run
    from sam3lt_ray.labels.reading import RunReader
    from sam3lt_ray.storage.store import open_store

    store = open_store(uri, storage)
    target = open_store(output if output is not None else store.location(DEFAULT_FOLDER), storage)
    # With --rows the size does not decide.
    summary = compact_run(
        RunReader(store),
        target,
        max_rows=rows,
        max_mb=size_mb if rows is None else None,
        allow_incomplete=incomplete,
        overwrite=overwrite,
    )
    if as_json:
        print_json(asdict(summary))
        return
    part = "" if summary.complete else "; the run is not complete"
    size = f"{summary.size_bytes / 1e6:,.1f} MB"
    print(f"{count_of(summary.rows, 'image')} in {count_of(summary.files, 'file')}, {size}{part}")
    print(summary.location)


def evaluate(
    run: RunLocation = None,
    ground_truth: Annotated[
        str | None, typer.Option("--ground-truth", "-g", metavar="FILE", help="COCO instances JSON with the truth.")
    ] = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    score_threshold: ScoreThreshold = None,
    category_map: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="CATEGORY=LABEL", help="A category of another name than its label; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a run against ground truth: mask AP, and whether labels are found where they are."""
    if ground_truth is None:
        raise typer.BadParameter("name the COCO file with the truth.", param_hint="--ground-truth")
    label_map = _read_map(category_map or [])
    uri, storage = locate_run(run, config, overrides)

    from sam3lt_ray.evaluation.coco_ap import evaluate as measure
    from sam3lt_ray.evaluation.figures import save_evaluation
    from sam3lt_ray.labels.completeness import read_completeness
    from sam3lt_ray.labels.reading import RunReader
    from sam3lt_ray.storage.store import open_store

    store = open_store(uri, storage)
    reader = RunReader(store)
    threshold = reader.default_score_threshold() if score_threshold is None else score_threshold
    completeness = read_completeness(reader)
    figures = measure(reader, ground_truth, label_map=label_map, score_threshold=threshold)
    if as_json:
        print_json(figures.to_json() | completeness.to_json())
    else:
        print_text(figures.to_text().rstrip("\n"))
    _warn(completeness.remark())
    try:
        location = save_evaluation(figures, store)
    except (InputError, StorageError) as error:  # whoever may only read a run may measure it
        _warn(f"The figures could not be kept for `sam3lt report`. {without_credentials(error.message)}")
        return
    if not as_json:
        print_text(f"\n{location}")


def _read_map(pairs: list[str]) -> dict[str, str]:
    """Category name -> label name."""
    label_of: dict[str, str] = {}
    for pair in pairs:
        category, equals, label = (part.strip() for part in pair.partition("="))
        if not equals or not category or not label:
            raise typer.BadParameter(f"expected CATEGORY=LABEL, got {pair!r}.", param_hint="--map")
        if label_of.setdefault(category, label) != label:
            raise typer.BadParameter(f"the category {category!r} is given two labels.", param_hint="--map")
    return label_of


def report(
    run: RunLocation = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write here, not to report/index.html of the run."),
    ] = None,
) -> None:
    """Write a page with numbers, a table of labels and a contact sheet; it shows the last evaluation, if any."""
    elsewhere = None if output is None else _folder_and_name(output)
    uri, storage = locate_run(run, config, overrides)

    from sam3lt_ray.labels.completeness import read_completeness
    from sam3lt_ray.labels.reading import RunReader
    from sam3lt_ray.pipeline.report import report_run
    from sam3lt_ray.storage.store import open_store

    store = open_store(uri, storage)
    completeness = read_completeness(RunReader(store))
    if elsewhere is None:
        print_text(report_run(store, storage))
    else:
        folder, name = elsewhere
        print_text(report_run(store, storage, open_store(folder, storage), name))
    _warn(completeness.remark())


def _folder_and_name(output: str) -> tuple[str, str]:
    """Where a file goes that is not written into the run directory."""
    folder, slash, name = output.rpartition("/")
    if not name:
        raise typer.BadParameter(f"{output!r} is a folder; name a file in it.", param_hint="--output")
    return folder or slash or ".", name


def _warn(sentence: str | None) -> None:
    """To standard error, so that what is printed stays what programs read."""
    if sentence is not None:
        print(printable(sentence), file=sys.stderr)
