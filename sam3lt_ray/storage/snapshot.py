"""The snapshot of the input, ``input/shards.parquet``: which shards a run covers, with size and version of each."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from sam3lt_ray.config.schema import OnChanged
from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.records import LooseFile, Shard
from sam3lt_ray.storage.ledger import shard_directory
from sam3lt_ray.storage.store import RunStore

SNAPSHOT_PATH: Final = "input/shards.parquet"

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("name", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size_bytes", pa.int64()),
    pa.field("version", pa.string()),
    pa.field("members", pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("uri", pa.string())]))),
    pa.field("edition", pa.string()),  # null for the content that the run first saw, and in snapshots of 0.1.0
]

_SCHEMA: Final = pa.schema(_FIELDS)
_MAX_NAMED = 5


def read_snapshot(store: RunStore) -> list[Shard]:
    """The shards of the run so far; empty for a run that has none yet."""
    return decode_snapshot(read_snapshot_file(store))


def read_snapshot_file(store: RunStore) -> bytes:
    """The snapshot as it is stored, to be compared; empty for a run that has none yet."""
    try:
        return store.read(SNAPSHOT_PATH)
    except FileNotFoundError:
        return b""


def decode_snapshot(data: bytes) -> list[Shard]:
    """The shards in a snapshot's file."""
    if not data:
        return []
    shards: list[Shard] = []
    # Column by column and some rows at a time: a million rows as dictionaries are half a gigabyte.
    for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches():
        present = set(batch.schema.names)  # snapshots of 0.1.0 have no editions
        columns = (batch.column(name).to_pylist() if name in present else repeat(None) for name in _SCHEMA.names)
        for _, name, uri, size_bytes, version, members, edition in zip(range(batch.num_rows), *columns, strict=False):
            files = tuple(LooseFile(member["key"], member["uri"]) for member in members)
            shards.append(Shard(name, uri, size_bytes, version, files, edition or ""))
    return shards


def write_snapshot(store: RunStore, shards: Sequence[Shard]) -> None:
    """Replace the snapshot; shards only ever join it, so a reader of the old one misses nothing it had."""
    members = ([{"key": file.key, "uri": file.uri} for file in shard.members] for shard in shards)
    columns = [
        pa.array((getattr(shard, field.name) or None for shard in shards), field.type)
        if field.name != "members"
        else pa.array(members, field.type)
        for field in _FIELDS
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), sink, compression="zstd")
    store.replace(SNAPSHOT_PATH, sink.getvalue().to_pybytes())


def read_editions(store: RunStore) -> dict[str, str]:
    """For shards whose content changed since the run first saw them: their first directory -> their present one."""
    try:
        with store.open(SNAPSHOT_PATH) as file:
            changed = pq.read_table(file, columns=["name", "edition"], schema=_SCHEMA)
    except FileNotFoundError:
        return {}
    return editions_of(
        Shard(str(name), "", edition=edition)
        for name, edition in zip(changed["name"].to_pylist(), changed["edition"].to_pylist(), strict=True)
        if edition
    )


def editions_of(shards: Iterable[Shard]) -> dict[str, str]:
    """:func:`read_editions` of shards at hand."""
    return {
        shard_directory(shard.name): shard_directory(shard.name, shard.edition) for shard in shards if shard.edition
    }


@dataclass(frozen=True, slots=True)
class MergedSnapshot:
    """What a run covers from now on.

    Attributes:
        shards: All shards of the run; known ones first, in their order.
        new: Those among them that no earlier start knew.
        changed: Those whose content is another one than before, with the edition that tells them apart.
        vanished: Names of known shards that the input no longer holds. Their labels stay; what they lack can no longer
            be made.
    """

    shards: list[Shard]
    new: list[Shard]
    changed: list[Shard]
    vanished: list[str]


def merge_snapshot(known: Sequence[Shard], listed: Sequence[Shard], on_changed: OnChanged = "refuse") -> MergedSnapshot:
    """Compare what is listed now with what the run already covers.

    Args:
        known: The run's snapshot.
        listed: What the input location holds now.
        on_changed: What becomes of known shards with other content: refuse the start, or label them anew.

    Raises:
        RunMismatchError: A known shard has other content now, and ``on_changed`` is "refuse".
    """
    listed_by_name = {shard.name: shard for shard in listed}
    shards, changed, vanished, descriptions = [], [], [], []
    for before in known:
        now = listed_by_name.pop(before.name, None)
        if now is None:
            vanished.append(before.name)
            shards.append(before)
        elif _has_changed(before, now):
            descriptions.append(_describe_change(before, now))
            changed.append(replace(now, edition=_edition(now)))
            shards.append(changed[-1])
        else:
            shards.append(replace(now, edition=before.edition) if before.edition else now)
    if changed and on_changed == "refuse":
        more = f" (and {len(changed) - _MAX_NAMED} more)" if len(changed) > _MAX_NAMED else ""
        raise RunMismatchError(
            "The input changed under the run, and labels of the old content would be mixed with labels of the new: "
            + "; ".join(descriptions[:_MAX_NAMED])
            + more
            + ". Put the old files back, or replace the labels of these shards with --changed relabel."
        )
    new = list(listed_by_name.values())
    return MergedSnapshot([*shards, *new], new, changed, vanished)


def _edition(shard: Shard) -> str:
    """Depends on the content, so that two starts that see different contents cannot meet in one directory."""
    content = f"{shard.size_bytes}\0{shard.version}\0" + "\0".join(member.key for member in shard.members)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _has_changed(before: Shard, now: Shard) -> bool:
    keys_before, keys_now = ([member.key for member in shard.members] for shard in (before, now))
    return (before.size_bytes, before.version, keys_before) != (now.size_bytes, now.version, keys_now)


def _describe_change(before: Shard, now: Shard) -> str:
    return (
        f"{before.name} was {before.size_bytes} bytes (version {before.version}) "
        f"and is {now.size_bytes} bytes (version {now.version})"
    )
