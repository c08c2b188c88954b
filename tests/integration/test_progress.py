"""What progress says of a run over tars, whose images nobody has counted: start by start, as the run grows."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.labels.status import read_run_state
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.progress import LogProgress
from sam3lt_ray.storage.store import open_store
from tests.asking import load_asked
from tests.standin import plain_image, write_tar

TOO_RED = 100


class Starts:
    """Starts of one run; the red of an image tells which one it is, and from :data:`TOO_RED` on it fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes = folder / "notes"
        self._notes.mkdir()

    def add(self, name: str, *reds: int) -> None:
        members = [(f"{position:03d}.png", plain_image((red, 5, 7))) for position, red in enumerate(reds)]
        write_tar(self._folder / "in" / name, members)

    def config(self, *labels: str) -> Config:
        return Config.model_validate(
            {
                "run": {"output": str(self._folder / "run")},
                "input": {"format": "webdataset", "uri": str(self._folder / "in"), "images_per_unit": 4},
                "vocabulary": list(labels),
            }
        )

    def start(self, *labels: str, fails_from_red: int = TOO_RED, **options: Any) -> list[str]:
        """The beginnings of the lines that tell images, one for each unit."""
        load = partial(load_asked, notes=self._notes, fails_from_red=fails_from_red)
        stream = io.StringIO()
        progress = LogProgress(stream, interval_s=0.0)
        label_run(self.config(*labels), load_engine=load, progress=progress, **options)
        lines = stream.getvalue().splitlines()
        return [line.split(" images,")[0] for line in lines if " images, " in line]


@pytest.mark.usefixtures("local_ray")
def test_how_many_of_how_many_from_the_first_unit_to_the_last_retry(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    # So many that what the first start has under way when it ends does not finish a shard.
    starts.add("a.tar", *range(50))
    starts.add("b.tar", *range(50, 89), TOO_RED)
    assert starts.start("cat", limit=4)[-1] == "4 of 4"
    told = starts.start("cat")
    assert " of ~" in told[0], "no shard is known yet, but what was read of one tells"
    assert told[-1] == "90 of 90"

    starts.add("c.tar", *range(90, 98))
    # Old images are asked the new label, new ones both: each is counted once.
    assert starts.start("cat", "dog")[-1] == "98 of 98"
    state = read_run_state(open_store(str(tmp_path / "run"), starts.config("cat").storage))
    assert (state.images_left, state.images_left_is_estimate) == (0, False)

    # One row in each of the two layers.
    assert starts.start("cat", "dog", retry_errors=True, fails_from_red=256) == ["1 of 2", "2 of 2"]
