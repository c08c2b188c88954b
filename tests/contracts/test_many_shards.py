"""A start on very many shards lists and reads nothing else; the times are the business of bench_shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sam3lt_ray.config.schema import Config
from sam3lt_ray.labels.images_ahead import ImagesAhead
from sam3lt_ray.labels.joined_counts import joined_counts
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.totals import RunTotals
from sam3lt_ray.pipeline.pass_guard import PassGuard
from sam3lt_ray.pipeline.planning import plan_run
from sam3lt_ray.pipeline.prepare import PreparedRun, prepare_run
from sam3lt_ray.pipeline.run_files import write_run_files
from sam3lt_ray.pipeline.source import MAX_READ_TASKS, UnitSource
from sam3lt_ray.pipeline.worklist import find_missing, plan_gaps
from sam3lt_ray.progress import SilentProgress
from sam3lt_ray.stages.read import MissingUnitReader
from sam3lt_ray.storage import split_listing
from sam3lt_ray.storage.lease import Lease
from tests.servers.vast_s3 import INPUT, RUN, Content, VastS3, keep_totals, run_vast_s3

SHARDS, FINISHED, UNITS_PER_SHARD = 20_000, 2_000, 4
INPUT_PAGES, LABEL_PAGES = SHARDS // 1000, FINISHED * UNITS_PER_SHARD // 1000


@pytest.fixture
def server(s3_credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VastS3]:
    # How many requests a listing in parts takes depends on which answers come first; here they are to be counted.
    monkeypatch.setattr(split_listing, "PAGES_BEFORE_CUTTING", INPUT_PAGES)
    with run_vast_s3(tmp_path, Content(SHARDS, FINISHED, UNITS_PER_SHARD)) as server:
        yield server


def config(server: VastS3) -> Config:
    return Config.model_validate(
        {
            "run": {"output": server.uri(RUN)},
            "input": {"format": "webdataset", "uri": server.uri(INPUT)},
            "vocabulary": ["red circle"],
            "storage": {"endpoint_url": server.endpoint_url},
        }
    )


def assert_listed_once(server: VastS3) -> None:
    """Of shards and units nothing was asked but one listing of each."""
    counts = {kind: count for kind, count in server.counts(forget=True).items() if not kind.endswith(" run")}
    assert counts == {"ListObjectsV2 shards": INPUT_PAGES, "ListObjectsV2 labels": LABEL_PAGES}


def begin(server: VastS3) -> PreparedRun:
    prepared = prepare_run(config(server))
    with Lease(prepared.store) as lease:
        lease.acquire()
        write_run_files(prepared, lease, SilentProgress(), overwrite=False)
    return prepared


def start(server: VastS3) -> PreparedRun:
    """Everything that a start does before Ray: to be called for a new run and for its continuation."""
    prepared = begin(server)
    coverage = prepared.coverage()
    (layer,) = plan_gaps(prepared, coverage, find_missing(prepared, coverage))
    work = layer.shards
    ahead = ImagesAhead.look(iter(prepared.shards), coverage)  # each shard once
    assert (ahead.done, ahead.left().is_estimate) == (FINISHED * UNITS_PER_SHARD * 250, True)
    assert len(prepared.shards) == SHARDS
    assert sum(1 for _ in coverage.iter_units()) == FINISHED * UNITS_PER_SHARD
    assert len(work) == SHARDS - FINISHED
    reader = MissingUnitReader(prepared.store, prepared.config.input, prepared.config.storage)
    source = UnitSource(reader, work, PassGuard(prepared.store, "a pass"))
    tasks = source.get_read_tasks(-1)
    assert len(tasks) == source.num_read_tasks() == MAX_READ_TASKS
    assert sum(len(task.read_fn._work) for task in tasks) == len(work)
    return prepared


def test_starting_lists_once_and_reads_nothing_of_what_is_finished(server: VastS3) -> None:
    first = start(server)
    assert len(first.snapshot.new) == SHARDS
    assert_listed_once(server)
    again = start(server)
    assert again.snapshot.new == []
    assert again.shards == first.shards
    assert_listed_once(server)


def test_totals_of_finished_shards_cost_no_read(server: VastS3) -> None:
    keep_totals(server)
    prepared = begin(server)
    coverage = prepared.coverage()
    server.counts(forget=True)
    total = joined_counts(RunReader(prepared.store), coverage, RunTotals.load(prepared.store))
    assert total is not None
    assert total.images == FINISHED * UNITS_PER_SHARD * 250
    assert dict(server.counts()) == {"GetObject run": 1}


def test_a_plan_of_it_reads_nothing_either(server: VastS3) -> None:
    start(server)
    server.counts(forget=True)
    plan = plan_run(config(server))
    assert (plan.shards_total, plan.shards_done, plan.units_done) == (SHARDS, FINISHED, FINISHED * UNITS_PER_SHARD)
    assert_listed_once(server)
