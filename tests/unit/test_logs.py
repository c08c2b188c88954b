"""Log records say what they are about."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sam3lt_ray.logs import log_fields, name_run_in_logs


@pytest.fixture(autouse=True)
def factory() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


def test_records_name_the_run_always_and_shard_and_unit_where_they_are_at_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    name_run_in_logs("s3://bucket/first")
    name_run_in_logs("s3://bucket/run")  # an actor's process may be used again
    logger = logging.getLogger("sam3lt_ray.engine")

    def label(shard: str) -> None:
        with log_fields(shard=shard), log_fields(unit="0-9"):
            logger.warning("halved in %s", shard)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(label, ["a.tar", "b.tar"]))
    logger.warning("outside")
    told = {record.getMessage(): vars(record) for record in caplog.records}
    for shard in ("a.tar", "b.tar"):
        fields = told[f"halved in {shard}"]
        assert (fields["run"], fields["shard"], fields["unit"]) == ("s3://bucket/run", shard, "0-9")
    assert told["outside"]["run"] == "s3://bucket/run"
    assert "shard" not in told["outside"]
