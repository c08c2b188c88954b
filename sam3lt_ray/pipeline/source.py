"""Ray Data source of missing units: one read task per shard, or per group of shards when there are very many."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from sam3lt_ray.errors import sentence_of
from sam3lt_ray.logs import log_fields, name_run_in_logs
from sam3lt_ray.pipeline.pass_guard import PassGuard
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.stages.read import MissingUnitReader, ShardWork
from sam3lt_ray.stages.unit_table import UNIT_SCHEMA, unit_to_table
from sam3lt_ray.terminal import printable

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

# The driver spends about 40 ms on a read task, so a million shards are read in groups.
MAX_READ_TASKS: Final = 5_000


class UnitSource(Datasource):
    """Streams the missing units of shards, one row and one block each.

    Args:
        reader: Reads the missing units of one shard.
        work: What is to do, shard by shard.
        guard: Of the pass.
    """

    def __init__(self, reader: MissingUnitReader, work: Sequence[ShardWork], guard: PassGuard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reader = reader
        self._guard = guard
        self._work = list(work)

    def get_name(self) -> str:
        """Name of the read operator in Ray's own displays."""
        return "ReadUnits"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before reading: shards may be partly done."""
        return None

    def num_read_tasks(self) -> int:
        """How many tasks read in parallel at most."""
        return min(len(self._work), MAX_READ_TASKS)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task per shard or group of shards; the number asked for does not matter, boundaries must be stable."""
        num_tasks = self.num_read_tasks()
        return [
            ReadTask(
                _ReadShards(self._reader, self._work[position::num_tasks], self._guard),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
                schema=UNIT_SCHEMA,
            )
            for position in range(num_tasks)
        ]


class _ReadShards:
    """The body of a read task. A shard that cannot be read leaves its units missing and the others alone."""

    def __init__(self, reader: MissingUnitReader, work: Sequence[ShardWork], guard: PassGuard) -> None:
        self._reader = reader
        self._guard = guard
        self._work = work

    def __call__(self) -> Iterator[pa.Table]:
        name_run_in_logs(without_credentials(self._reader.store.uri))
        here = ray.util.get_node_ip_address()
        for work in self._work:
            self._guard.touch()
            try:
                for unit in self._reader(work):
                    self._guard.touch()
                    yield unit_to_table(replace(unit, read_on=here))
            except Exception as error:  # also what nobody has met yet: it must not take the other shards with it
                with log_fields(shard=work.shard.name):
                    sentence = printable(without_credentials(sentence_of(error)))
                    logger.warning("shard %r: %s", work.shard.name, sentence)
