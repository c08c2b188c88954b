"""An image that breaks its actor's device for good, on real Ray: it alone is lost, the process goes with the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.storage.store import open_store
from tests.run_checks import assert_exact
from tests.standin import BREAKER_RED, load_poisoned, plain_image, write_tar


@pytest.mark.usefixtures("local_ray")
def test_only_the_image_that_breaks_the_device_is_lost(tmp_path: Path) -> None:
    colors = [(BREAKER_RED if i == 13 else i, 2 * i, 9) for i in range(30)]
    members = [(f"{i:05d}.png", plain_image(color, (40 + i % 5, 30))) for i, color in enumerate(colors)]
    write_tar(tmp_path / "shards" / "a.tar", members)
    config = Config.model_validate(
        {
            "run": {"output": str(tmp_path / "run")},
            "input": {"format": "webdataset", "uri": str(tmp_path / "shards"), "images_per_unit": 10},
            "vocabulary": ["red circle", "star"],
        }
    )
    summary = label_run(config, load_engine=load_poisoned)
    assert summary.exit_code == 0, summary.message
    rows = assert_exact(open_store(config.run.output, config.storage), {"a.tar": 30})
    assert {row["index"]: row["error_kind"] for row in rows if row["status"] == "error"} == {13: "worker_died"}
