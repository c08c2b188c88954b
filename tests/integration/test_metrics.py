"""What Prometheus sees of a real run, and what a collector of logs does."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import ray

from sam3lt_ray.config.schema import Config
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.progress import SilentProgress
from sam3lt_ray.records import Part
from tests.benchmarks.measuring import in_fresh_process
from tests.standin import StandInEngine, plain_image, write_tar

if TYPE_CHECKING:
    from sam3lt_ray.pipeline.actor_plan import ActorResources

IMAGES, UNIT = 24, 4
PARTS = set(get_args(Part))
ROOT = Path(__file__).parents[2]
# Reports are at least a second apart, whatever is asked for, and a gauge that was not set lives for two of them.
FORGOTTEN_S = 5.0
# Of the run's own progress; a run without labels, errors or lack of memory does not show what belongs to these.
SHOWN = {
    "ray_sam3lt_images_total",
    "ray_sam3lt_instances_total",
    "ray_sam3lt_part_seconds_total",
    "ray_sam3lt_bytes_read_total",
    "ray_sam3lt_memory_halvings_total",
    "ray_sam3lt_gpu_busy_fraction",
    "ray_sam3lt_shards",
}


class _ShortOfMemory(StandInEngine):
    """Has to halve its batch once."""

    @property
    def memory_halvings(self) -> int:  # type: ignore[override]
        return 1 if self.part_seconds["prompts"] else 0


def load_short_of_memory(
    checkpoint: Checkpoint, prompts: Sequence[str], config: Config, resources: ActorResources
) -> _ShortOfMemory:
    """An engine factory for ``label_run``."""
    return _ShortOfMemory(len(prompts), seconds_per_image=0.01)


class _Scraper(SilentProgress):
    """Reads the metrics of the node when all units are committed, until everything is there in one answer.

    And once more when Ray would have forgotten gauges that only units set.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.images = 0
        self.text = ""

    def unit_done(self, *, images: int, errors: int, instances: int, busy_share: float | None = None) -> None:
        self.images += images
        if self.images == IMAGES:
            told_at = time.monotonic()
            while time.monotonic() < told_at + 60:
                self.text = self._scrape()
                if self._is_complete() and time.monotonic() > told_at + FORGOTTEN_S:
                    break
                time.sleep(0.2)

    def _scrape(self) -> str:
        node = next(node for node in ray.nodes() if node["Alive"])
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics") as answer:
            # What this process has counted in earlier runs is there too.
            lines = answer.read().decode().splitlines()
        return "".join(f"{line}\n" for line in lines if f'run="{self.run}"' in line)

    def _is_complete(self) -> bool:
        # Ray does not export all metrics of a process at the same moment.
        return bool(
            sum(values(self.text, "ray_sam3lt_images_total").values()) == IMAGES
            and values(self.text, "ray_sam3lt_instances_total") == {"cat": IMAGES - 2, "dog": IMAGES - 2}
            and values(self.text, "ray_sam3lt_shards").get("final") == 2
            and values(self.text, "ray_sam3lt_gpu_busy_fraction")
            and values(self.text, "ray_sam3lt_part_seconds_total").keys() == PARTS
        )


def values(text: str, name: str) -> dict[str, float]:
    """The values of a metric by its tag beside ``run``; "" where it has none."""
    found = {}
    for labels, value in re.findall(rf"^{name}{{([^}}]*)}} (\S+)$", text, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        tag = next((tags[key] for key in ("status", "label", "part", "state") if key in tags), "")
        found[tag] = float(value)
    return found


@dataclass
class SeenRun:
    """A run from outside.

    Attributes:
        uri: Where it is.
        text: Its metrics, as Prometheus gets them.
        session: What its summary says of the start.
        log_lines: What its workers logged, with what Ray wrote between.
    """

    uri: str
    text: str
    session: dict[str, Any]
    log_lines: list[str]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> SeenRun:
    """Two shards, each of whose last image is none."""
    folder = tmp_path_factory.mktemp("seen")
    for shard in range(2):
        members = [(f"{shard}-{index}.png", plain_image((9 * index, 50, 90))) for index in range(IMAGES // 2 - 1)]
        write_tar(folder / "shards" / f"{shard}.tar", [*members, (f"{shard}-bad.png", b"no image")])
    # What the driver says of logs and metrics counts when Ray is started, so the Ray of other tests will not do.
    return in_fresh_process(_watch_run, folder)


def _watch_run(folder: Path) -> SeenRun:
    config = Config.model_validate(
        {
            "run": {"output": str(folder / "run")},
            "input": {"format": "webdataset", "uri": str(folder / "shards"), "images_per_unit": UNIT},
            "model": {"checkpoint": "demo"},
            "vocabulary": ["cat", "dog"],
        }
    )
    scraper = _Scraper(folder / "run")
    # Not pytest's folder: the names of Ray's sockets would be too long.
    with tempfile.TemporaryDirectory(prefix="seen-") as of_ray:
        os.environ |= {"RAY_metrics_report_interval_ms": "200", "RAY_TMPDIR": of_ray, "RAY_AUTH_MODE": "disabled"}
        summary = label_run(config, progress=scraper, load_engine=load_short_of_memory, log_format="json")
        assert summary.status == "done"
        files = Path(of_ray).glob("ray/session_2*/logs/worker-*.err")
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        return SeenRun(str(folder / "run"), scraper.text, summary.content["session"], lines)


def test_a_run_is_seen_by_prometheus(seen: SeenRun) -> None:
    assert set(re.findall(r"^(ray_sam3lt_\w+)\{", seen.text, re.MULTILINE)) == SHOWN
    assert values(seen.text, "ray_sam3lt_images_total") == {"ok": IMAGES - 2, "error": 2}
    assert values(seen.text, "ray_sam3lt_instances_total") == {"cat": IMAGES - 2, "dog": IMAGES - 2}
    assert values(seen.text, "ray_sam3lt_shards") == {"open": 0, "final": 2}
    seconds = values(seen.text, "ray_sam3lt_part_seconds_total")
    assert seconds.keys() == PARTS
    assert all(seconds.values())
    assert 1 <= values(seen.text, "ray_sam3lt_memory_halvings_total")[""] <= seen.session["actors"]
    assert 0 < values(seen.text, "ray_sam3lt_gpu_busy_fraction")[""] <= 1
    assert values(seen.text, "ray_sam3lt_bytes_read_total")[""] > 0
    assert f'run="{seen.uri}"' in seen.text
    told = seen.session["seconds_by_part"]
    assert 0 < seconds["prompts"] <= told["prompts"] + 0.01  # an export may be a unit behind


def test_what_a_worker_logs_says_which_run_shard_unit_and_actor_it_is_about(seen: SeenRun) -> None:
    records = [json.loads(line) for line in seen.log_lines if line.startswith("{")]
    units = [record for record in records if " images labeled in " in record["message"]]
    assert {record["run"] for record in units} == {seen.uri}
    assert sorted(record["shard"] for record in units) == ["0.tar"] * 3 + ["1.tar"] * 3
    assert len({record["unit"] for record in units}) == IMAGES // UNIT
    assert 1 <= len({record["actor_id"] for record in units}) <= seen.session["actors"]
    assert all(record["node_id"] for record in units)


def test_dashboard_and_alerts_ask_for_nothing_else(seen: SeenRun) -> None:
    files = [path for path in (ROOT / "infra" / "monitoring").rglob("*") if path.suffix in (".json", ".yaml")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert set(re.findall(r"\bray_sam3lt_\w+", text)) == SHOWN
    # A value that they ask for by name, and the run did not show, is as good as a metric that is not there.
    named = re.findall(r'\b(ray_sam3lt_\w+)\{[^}]*\b(state|status|part|label)=\\*"(\w+)', text)
    assert ("ray_sam3lt_shards", "state", "open") in named
    for name, tag, value in named:
        assert value in values(seen.text, name), f'{name}{{{tag}="{value}"}}'
