"""The snapshot of the input, ``input/shards.parquet``: which shards a run covers, with size and version of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, Final

import pyarrow as pa

from sam3lt_ray.config.schema import OnChanged
from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.records import LooseFile, Shard
from sam3lt_ray.storage.damage import is_damage
from sam3lt_ray.storage.ledger import shard_directory
from sam3lt_ray.storage.parquet_files import encode_parquet, iter_batches, open_parquet, read_whole
from sam3lt_ray.storage.store import RunStore

SNAPSHOT_PATH: Final = "input/shards.parquet"

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("name", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size_bytes", pa.int64()),
    pa.field("version", pa.string()),
    pa.field("members", pa.list_(pa.struct([pa.field(name, pa.string()) for name in ("key", "uri", "version")]))),
    pa.field("edition", pa.string()),  # null for the content that the run first saw, and in snapshots of 0.1.0
]

_SCHEMA: Final = pa.schema(_FIELDS)
_MAX_NAMED = 5


def read_snapshot(store: RunStore) -> list[Shard]:
    """The shards of the run so far; empty for a run that has none yet.

    Raises:
        RunMismatchError: The snapshot is damaged.
    """
    return decode_snapshot(store, read_snapshot_file(store))


def read_snapshot_file(store: RunStore) -> bytes | None:
    """The snapshot as it is stored, to be compared; None for a run that has none yet."""
    try:
        return store.read(SNAPSHOT_PATH)
    except FileNotFoundError:
        return None


def decode_snapshot(store: RunStore, data: bytes | None) -> list[Shard]:
    """The shards in a run's snapshot, as it is stored.

    Raises:
        RunMismatchError: It is damaged.
    """
    if data is None:
        return []
    with _naming_damage(store):
        return list(_decode(data))


def _decode(data: bytes) -> Iterator[Shard]:
    # Column by column and some rows at a time: a million rows as dictionaries are half a gigabyte.
    for batch in iter_batches(open_parquet(data)):
        present = set(batch.schema.names)  # snapshots of 0.1.0 have no editions
        columns = (batch.column(name).to_pylist() if name in present else repeat(None) for name in _SCHEMA.names)
        for _, name, uri, size_bytes, version, members, edition in zip(range(batch.num_rows), *columns, strict=False):
            files = tuple(LooseFile(member["key"], member["uri"], member.get("version")) for member in members)
            yield Shard(name, uri, size_bytes, version, files, edition or "")


@contextmanager
def _naming_damage(store: RunStore) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        raise RunMismatchError(
            f"{store.location(SNAPSHOT_PATH)} is not a readable Parquet file ({error}). It says which labels belong to "
            "which content, so no start can go without it: put a copy of it back, or label into a new run directory."
        ) from error


def write_snapshot(store: RunStore, shards: Sequence[Shard]) -> None:
    """Replace the snapshot; shards only ever join it, so a reader of the old one misses nothing it had."""
    members = (
        [{"key": file.key, "uri": file.uri, "version": file.version} for file in shard.members] for shard in shards
    )
    columns = [
        pa.array((None if (value := getattr(shard, field.name)) == "" else value for shard in shards), field.type)
        if field.name != "members"
        else pa.array(members, field.type)
        for field in _FIELDS
    ]
    store.replace(SNAPSHOT_PATH, encode_parquet(pa.Table.from_arrays(columns, schema=_SCHEMA)))


def read_editions(store: RunStore) -> dict[str, str]:
    """For shards whose content changed since the run first saw them: their first directory -> their present one."""
    try:
        with store.open(SNAPSHOT_PATH) as file, _naming_damage(store):
            changed = read_whole(file, ["name", "edition"])
    except FileNotFoundError:
        return {}
    if "edition" not in changed.column_names:  # of 0.1.0
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
        vanished_images: Keys of loose files that the input no longer names, in groups that vanished and in others.
    """

    shards: list[Shard]
    new: list[Shard]
    changed: list[Shard]
    vanished: list[str]
    vanished_images: list[str] = field(default_factory=list)


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
    vanished_images: list[str] = []
    for before in known:
        now = listed_by_name.pop(before.name, None)
        if now is None:
            vanished.append(before.name)
            vanished_images += [member.key for member in before.members]
            shards.append(before)
        elif _has_changed(before, now):
            descriptions.append(_describe_change(before, now))
            changed.append(replace(now, edition=_edition(now)))
            shards.append(changed[-1])
        else:
            vanished_images += [member.key for member in now.members if member.is_gone]
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
    return MergedSnapshot([*shards, *new], new, changed, vanished, vanished_images)


def _edition(shard: Shard) -> str:
    """Depends on the content, so that two starts that see different contents cannot meet in one directory."""
    content = f"{shard.size_bytes}\0{shard.version}\0" + "\0".join(member.key for member in shard.members)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _has_changed(before: Shard, now: Shard) -> bool:
    # Earlier snapshots keep 0 bytes as null. Where a size became known, the version tells whether something changed.
    sizes = before.size_bytes or 0, now.size_bytes or 0
    keys_before, keys_now = ([member.key for member in shard.members] for shard in (before, now))
    return sizes[0] != sizes[1] or before.version != now.version or keys_before != keys_now


def _describe_change(before: Shard, now: Shard) -> str:
    versions = {member.key: member.version for member in now.members if member.uri}  # a repeated key has none
    changed = [
        member.key
        for member in before.members
        if member.version is not None and member.key in versions and member.version != versions[member.key]
    ]
    gone = [member.key for member in before.members if member.uri and member.key not in versions]
    parts = [
        f"{what}: {', '.join(keys[:_MAX_NAMED])}{', ...' if len(keys) > _MAX_NAMED else ''}"
        for what, keys in (("changed", changed), ("gone", gone))
        if keys
    ]
    in_detail = f" ({'; '.join(parts)})" if parts else ""
    return (
        f"{before.name} was {before.size_bytes} bytes (version {before.version}) "
        f"and is {now.size_bytes} bytes (version {now.version}){in_detail}"
    )
