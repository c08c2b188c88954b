"""The snapshot of the input, ``input/shards.parquet``: which shards a run covers, with size and version of each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.records import LooseFile, Shard
from sam3lt_ray.storage.store import RunStore

SNAPSHOT_PATH: Final = "input/shards.parquet"

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("name", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size_bytes", pa.int64()),
    pa.field("version", pa.string()),
    pa.field("members", pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("uri", pa.string())]))),
]

_SCHEMA: Final = pa.schema(_FIELDS)
_MAX_NAMED = 5


def read_snapshot(store: RunStore) -> list[Shard]:
    """The shards of the run so far; empty for a run that has none yet."""
    try:
        data = store.read(SNAPSHOT_PATH)
    except FileNotFoundError:
        return []
    shards: list[Shard] = []
    # Column by column and some rows at a time: a million rows as dictionaries are half a gigabyte.
    for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(columns=_SCHEMA.names):
        columns = (batch.column(name).to_pylist() for name in _SCHEMA.names)
        for name, uri, size_bytes, version, members in zip(*columns, strict=True):
            files = tuple(LooseFile(member["key"], member["uri"]) for member in members)
            shards.append(Shard(name, uri, size_bytes, version, files))
    return shards


def write_snapshot(store: RunStore, shards: Sequence[Shard]) -> None:
    """Replace the snapshot; shards only ever join it, so a reader of the old one misses nothing it had."""
    members = ([{"key": file.key, "uri": file.uri} for file in shard.members] for shard in shards)
    columns = [
        pa.array((getattr(shard, field.name) for shard in shards), field.type)
        if field.name != "members"
        else pa.array(members, field.type)
        for field in _FIELDS
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), sink, compression="zstd")
    store.replace(SNAPSHOT_PATH, sink.getvalue().to_pybytes())


def merge_snapshot(known: Sequence[Shard], listed: Sequence[Shard]) -> tuple[list[Shard], list[Shard], list[str]]:
    """Compare what is listed now with what the run already covers.

    Args:
        known: The run's snapshot.
        listed: What the input location holds now.

    Returns:
        All shards of the run (known ones first, in their order), the new ones among them, and the names of shards
        that vanished. Labels of vanished shards stay; what they lack can no longer be made.

    Raises:
        RunMismatchError: A known shard has other content now; its units would mix two inputs.
    """
    listed_by_name = {shard.name: shard for shard in listed}
    changed = [
        _describe_change(shard, listed_by_name[shard.name])
        for shard in known
        if shard.name in listed_by_name and _has_changed(shard, listed_by_name[shard.name])
    ]
    if changed:
        more = f" (and {len(changed) - _MAX_NAMED} more)" if len(changed) > _MAX_NAMED else ""
        raise RunMismatchError(
            "The input changed under the run, and labels of the old content would be mixed with labels of the new: "
            + "; ".join(changed[:_MAX_NAMED])
            + more
            + ". Put the old files back, or label into a new run directory."
        )
    known_names = {shard.name for shard in known}
    new = [shard for shard in listed if shard.name not in known_names]
    vanished = [shard.name for shard in known if shard.name not in listed_by_name]
    return [*(listed_by_name.get(shard.name, shard) for shard in known), *new], new, vanished


def _has_changed(before: Shard, now: Shard) -> bool:
    keys_before, keys_now = ([member.key for member in shard.members] for shard in (before, now))
    return (before.size_bytes, before.version, keys_before) != (now.size_bytes, now.version, keys_now)


def _describe_change(before: Shard, now: Shard) -> str:
    return (
        f"{before.name} was {before.size_bytes} bytes (version {before.version}) "
        f"and is {now.size_bytes} bytes (version {now.version})"
    )
