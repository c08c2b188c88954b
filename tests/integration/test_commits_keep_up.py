"""What is labeled is committed soon, also while there is much to read: all else is lost when the run is killed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from ray.data._internal.cluster_autoscaler import RateBasedClusterAutoscaler

from sam3lt_ray.config.schema import Config
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.progress import SilentProgress
from tests.standin import load_standin, plain_image, write_tar

UNITS, IMAGES_PER_UNIT = 120, 10
IMAGE_BYTES = 800_000  # more than fits into the object store all at once
# The process that commits is started when the first unit is labeled; on a slow machine many follow until it is there.
UNDER_WAY, MOST_WAITING = 80, 40


class Backlog(SilentProgress):
    """How many units were labeled and not yet committed, at most, once the run is under way."""

    def __init__(self, labeled: Path) -> None:
        self.most = self.committed = 0
        self._labeled = labeled

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        self.committed += 1
        labeled = self._labeled.stat().st_size // IMAGES_PER_UNIT
        if labeled >= UNDER_WAY:
            self.most = max(self.most, labeled - self.committed)


@pytest.mark.usefixtures("local_ray")
def test_few_labeled_units_wait_while_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Data asks for more CPUs, and loses some by it, 10 s after a run began; here after one."""
    monkeypatch.setitem(RateBasedClusterAutoscaler.__init__.__kwdefaults__, "min_gap_between_autoscaling_requests_s", 1)
    image = plain_image((40, 90, 200), (8, 6))
    image += bytes(IMAGE_BYTES - len(image))
    write_tar(tmp_path / "shard.tar", [(f"{n:03d}.png", image) for n in range(4 * IMAGES_PER_UNIT)])
    (tmp_path / "in").mkdir()
    for number in range(UNITS // 4):
        (tmp_path / "in" / f"{number:03d}.tar").hardlink_to(tmp_path / "shard.tar")
    config = Config.model_validate(
        {
            "run": {"output": str(tmp_path / "run")},
            "input": {"format": "webdataset", "uri": str(tmp_path / "in"), "images_per_unit": IMAGES_PER_UNIT},
            "vocabulary": ["cat"],
        }
    )
    backlog = Backlog(tmp_path / "labeled")
    load = partial(load_standin, seconds_per_image=0.01, labeled=str(tmp_path / "labeled"))
    assert label_run(config, load_engine=load, progress=backlog).status == "done"
    assert backlog.committed == UNITS
    assert backlog.most <= MOST_WAITING
