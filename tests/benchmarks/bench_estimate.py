"""How near ``sam3lt plan --calibrate`` comes to what the run then takes.

    python -m tests.benchmarks.bench_estimate [--quick] [--json FILE]

Rendered scenes in tars, units of 8, the demo checkpoint. The plan sees the input alone; then the same config is
labeled, in a fresh process. Time is that from the first unit to the last; bytes are those of the label files. In one
of the sizes one label more is wanted of the same images then, which is planned and labeled too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sam3lt_ray.config.schema import Config
from sam3lt_ray.demo.dataset import write_demo_dataset
from sam3lt_ray.vocabulary.loading import load_vocabulary
from tests.benchmarks.measuring import finish, in_fresh_process, load_now, print_table, read_options

SEED = 77
IMAGES_PER_UNIT = 8
PRICE = 1.0
NEW_LABEL = "red ring"


def make_config(folder: Path, labels: list[str]) -> Config:
    return Config.model_validate(
        {
            "run": {"output": str(folder / "run")},
            "input": {"format": "webdataset", "uri": str(folder / "in/shards"), "images_per_unit": IMAGES_PER_UNIT},
            "model": {"checkpoint": "demo"},
            "vocabulary": labels,
            "compute": {"device": "cpu"},
        }
    )


def estimated(config: Config, calibrate: int) -> dict[str, Any]:
    """What the plan says of the rest of the run."""
    from sam3lt_ray.pipeline.estimate import EstimateOptions
    from sam3lt_ray.pipeline.planning import plan_run

    report = plan_run(config, estimate=EstimateOptions(PRICE, calibrate=calibrate))
    found: dict[str, Any] = report.to_json()["estimate"]
    return found


def labeled(config: Config) -> dict[str, Any]:
    """What the start did."""
    from sam3lt_ray.pipeline.run import label_run

    summary = label_run(config)
    assert summary.status == "done", summary.message
    session: dict[str, Any] = summary.content["session"]
    return session


def compare(folder: Path, labels: list[str], calibrate: int) -> dict[str, Any]:
    """One plan, one start."""
    config, load = make_config(folder, labels), load_now()
    plan = in_fresh_process(estimated, config, calibrate)
    session = in_fresh_process(labeled, config)
    return {
        "images": session["images"]["total"],
        "planned images": plan["remaining"]["images"],
        "planned s": plan["remaining"]["wall_s"],
        "took s": session["labeling_s"],
        "planned bytes": plan["remaining"]["output_bytes"],
        "took bytes": session["bytes_written"],
        "load": [load, load_now()],
    }


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    sizes, more_of, calibrate = ((16,), 16, 4) if options.quick else ((64, 300, 2000), 300, 32)
    labels = [label.name for label in load_vocabulary("demo").labels]
    figures: dict[str, dict[str, Any]] = {}
    for num_scenes in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_demo_dataset(folder / "in", num_scenes, labels, SEED, scenes_per_shard=max(8, num_scenes // 6))
            figures[f"{num_scenes} scenes"] = compare(folder, labels, calibrate)
            if num_scenes == more_of:
                figures["... one label more"] = compare(folder, [*labels, NEW_LABEL], calibrate)
        print(f"{num_scenes:,} scenes: done, load {load_now()}", flush=True)
    rows = [
        [
            what,
            f"{one['planned images']:,} / {one['images']:,}",
            f"{one['planned s']:.1f} / {one['took s']:.1f}",
            f"{one['planned s'] / one['took s']:.2f}",
            f"{one['planned bytes'] / 1e6:.3f} / {one['took bytes'] / 1e6:.3f}",
            f"{one['planned bytes'] / one['took bytes']:.2f}",
            " ".join(f"{load:.1f}" for load in one["load"]),
        ]
        for what, one in figures.items()
    ]
    headers = ["planned / took", "images", "s of labeling", "ratio", "MB of labels", "ratio", "load before, after"]
    print_table(headers, rows)
    finish(options, {"calibrate": calibrate, **figures}, load_before)


if __name__ == "__main__":
    main()
