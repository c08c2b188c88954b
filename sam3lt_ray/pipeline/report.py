"""The report of a run, with its pictures fetched back from the input."""

from __future__ import annotations

from sam3lt_ray.config.schema import InputSettings, StorageSettings
from sam3lt_ray.evaluation.figures import load_evaluation
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.report.page import REPORT_PATH, write_report
from sam3lt_ray.stages.find_image import ImageFinder
from sam3lt_ray.storage.run_directory import SUMMARY_PATH, read_json, read_run
from sam3lt_ray.storage.store import RunStore


def report_run(
    store: RunStore, storage: StorageSettings, target: RunStore | None = None, path: str = REPORT_PATH
) -> str:
    """Write the page of a run, with its last evaluation if there is one.

    Args:
        store: The run directory.
        storage: How the run's input is reached.
        target: Where to write; None: into the run directory.
        path: Of the page there.

    Returns:
        Where the report is.

    Raises:
        InputError: There is no run here.
    """
    settings = InputSettings.model_validate(read_run(store)["config"]["input"])
    reader = RunReader(store)
    return write_report(
        reader,
        store if target is None else target,
        summary=read_json(store, SUMMARY_PATH) or {},
        evaluation=load_evaluation(store),
        images=ImageFinder(store, reader.coverage(), settings, storage),
        path=path,
    )
