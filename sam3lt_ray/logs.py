"""Which run, shard and unit a log line is about, for those who collect logs as JSON.

In a worker every record gets the fields as attributes, whoever logs: text formats do not show them, Ray's JSON format
does, beside the ids of job, node, actor and task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, Literal

LogFormat = Literal["text", "json"]

_FIELDS: Final[ContextVar[Mapping[str, str]]] = ContextVar("sam3lt_log_fields", default=MappingProxyType({}))


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """What this thread logs meanwhile is about these."""
    token = _FIELDS.set({**_FIELDS.get(), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(token)


def name_run_in_logs(run: str) -> None:
    """From now on all records of this process carry the run, and what :func:`log_fields` says."""
    make_record = logging.LogRecord

    def with_fields(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make_record(*arguments, **options)
        record.__dict__.update({"run": run, **_FIELDS.get()})
        return record

    logging.setLogRecordFactory(with_fields)
