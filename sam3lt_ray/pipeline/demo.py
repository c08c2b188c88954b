"""``sam3lt demo``: the whole product on rendered scenes, with a score against ground truth, in a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3lt_ray.config.schema import (
    ComputeSettings,
    Config,
    InputSettings,
    ModelSettings,
    RunSettings,
    StorageSettings,
)
from sam3lt_ray.demo.dataset import write_demo_dataset
from sam3lt_ray.errors import RetryableRunError
from sam3lt_ray.evaluation.coco_ap import evaluate
from sam3lt_ray.evaluation.figures import EvaluationReport, save_evaluation
from sam3lt_ray.exports.coco import export_coco
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.pipeline.report import report_run
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.pipeline.summary import RunSummary
from sam3lt_ray.progress import ProgressListener
from sam3lt_ray.storage.store import open_store
from sam3lt_ray.vocabulary.loading import load_vocabulary

_IMAGES_PER_UNIT = 8  # small units: progress moves, actors share even a few scenes, and a killed demo loses little


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where everything is, and how well it went."""

    summary: RunSummary
    evaluation: EvaluationReport
    scenes: Path
    run: Path
    coco: Path
    report: Path

    @property
    def exit_code(self) -> int:
        """What a command line returns for it."""
        return self.summary.exit_code

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        places = {name: str(getattr(self, name)) for name in ("scenes", "run", "coco", "report")}
        return {**places, "summary": self.summary.to_json(), "evaluation": self.evaluation.to_json()}

    def to_text(self) -> str:
        """Lines for a person."""
        session = self.summary.content["session"]
        rate = session["images_per_s"]
        speed = f"{rate:.1f} images/s on {session['device']}" if rate else "labeled by an earlier start"
        return "\n".join(
            [
                self.evaluation.to_text().rstrip("\n"),
                "",
                f"speed    {speed}",
                f"scenes   {self.scenes}",
                f"labels   {self.run / 'labels'}  (Parquet, one row per image)",
                f"COCO     {self.coco}",
                f"report   {self.report}",
            ]
        )


def run_demo(
    folder: Path,
    *,
    num_scenes: int,
    seed: int,
    progress: ProgressListener | None = None,
    compute: ComputeSettings | None = None,
    checkpoint: str = "demo",
    vocabulary: str = "demo",
) -> DemoResult:
    """Render scenes as WebDataset shards, label them, export COCO, score it, write the report.

    Args:
        folder: Receives ``scenes/`` and ``run/``. Running again with the same scenes continues.
        num_scenes: How many images.
        seed: Decides the scenes.
        progress: Told what happens.
        compute: Resources; None: what the machine has.
        checkpoint: Another checkpoint than the one in the package.
        vocabulary: Another vocabulary than the demo's 20 labels; its names must be phrases about scenes.

    Raises:
        UsageError: The folder holds a demo with other scenes, or cannot be written.
        RetryableRunError: Labeling did not come to its end.
    """
    folder = folder.resolve()
    labels = load_vocabulary(vocabulary)
    dataset = write_demo_dataset(
        folder / "scenes", num_scenes, [label.name for label in labels.labels], seed, scenes_per_shard=50
    )
    config = Config(
        run=RunSettings(output=str(folder / "run")),
        input=InputSettings(format="webdataset", uri=str(dataset.shards_folder), images_per_unit=_IMAGES_PER_UNIT),
        model=ModelSettings(checkpoint=checkpoint),
        vocabulary=vocabulary,
        compute=compute or ComputeSettings(),
    )
    summary = label_run(config, progress=progress)
    if summary.exit_code:
        raise RetryableRunError(summary.message)
    store = open_store(config.run.output, StorageSettings())
    reader = RunReader(store)
    coco = export_coco(reader, store, kind="dataset")
    evaluation = evaluate(reader, dataset.ground_truth)
    save_evaluation(evaluation, store)
    report = report_run(store, config.storage)
    return DemoResult(summary, evaluation, dataset.shards_folder, folder / "run", Path(coco.locations[0]), Path(report))
