"""``sam3lt compact``: a run as few large Parquet files, for readers to whom thousands of small ones are slow.

A killed compaction is taken up by the same command. ``_compaction.json`` is created first and says what is made of
what, so that no other compaction mixes its files in; files appear whole, under names that say which rows they hold;
``_manifest.json`` is written last, when all of them have been read back. Parquet readers pass over names that begin
with "_".
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from sam3lt_ray.errors import InputError, RunMismatchError
from sam3lt_ray.exports.row_files import RowFiles, RowGroup, read_places, row_groups
from sam3lt_ray.labels.columns import LabeledImage
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.schema import SCHEMA_VERSION
from sam3lt_ray.labels.status import read_run_state
from sam3lt_ray.storage.ledger import LABELS_PREFIX, first_edition, shard_directory
from sam3lt_ray.storage.run_directory import encode_json, read_json, write_json
from sam3lt_ray.storage.store import RunStore

DEFAULT_FOLDER: Final = "exports/compact"
PLAN_PATH: Final = "_compaction.json"
MANIFEST_PATH: Final = "_manifest.json"
BYTES_PER_MB: Final = 10**6
_FILE_NAME: Final = re.compile(r"(?P<first>\d{12})-(?P<count>\d{9})\.parquet")


@dataclass(frozen=True, slots=True)
class CompactSummary:
    """What a compaction made.

    Attributes:
        location: The folder.
        files: Parquet files in it.
        rows: Rows in all of them, one per image.
        size_bytes: Bytes of all of them.
        rows_reused: Rows in files that an earlier, interrupted attempt had written.
        complete: The run has a row for every image of its input.
    """

    location: str
    files: int
    rows: int
    size_bytes: int
    rows_reused: int
    complete: bool


def compact_run(
    reader: RunReader,
    target: RunStore,
    *,
    max_rows: int | None = None,
    max_mb: int | None = 512,
    allow_incomplete: bool = False,
    overwrite: bool = False,
) -> CompactSummary:
    """Write a run's rows, all layers of an image joined, into files of a chosen size.

    Rows are in the order of :meth:`RunReader.iter_images`: shard by shard, by index within a shard. Memory holds a row
    group and a unit; a file that is being written stands on the local disk.

    Args:
        reader: The run.
        target: Where to write: an empty folder, or one that this command began to fill.
        max_rows: Rows of a file at most; all but the last one have as many if ``max_mb`` is None.
        max_mb: A file ends with the row group that reaches it.
        allow_incomplete: Take what is there.
        overwrite: Discard another compaction that stands in ``target``.

    Raises:
        InputError: There is no run, or it is not complete.
        RunMismatchError: ``target`` holds another compaction, or the run changed meanwhile.
        StorageError: The files could not be written.
    """
    state = read_run_state(reader.store)
    if not state.is_complete and not allow_incomplete:
        raise InputError(
            f"{reader.store.uri} is not complete: {state.shards_done:,} of {state.shards_total:,} shards are done. "
            "Finish it with `sam3lt label`, or take what is there with --incomplete."
        )
    plan = _plan(reader, max_rows, max_mb)
    _claim(target, plan, overwrite=overwrite)
    finished = read_json(target, MANIFEST_PATH)
    kept = _kept_files(target)
    rows_kept = sum(kept.values())
    if finished is None:
        _write_files(reader, target, rows_kept, max_rows, max_mb)
    rows = _verify(target)
    if rows != state.images_done or _plan(reader, max_rows, max_mb) != plan:
        raise RunMismatchError(
            f"The run in {reader.store.uri} changed while it was compacted: {state.images_done:,} images were to be "
            f"written and {rows:,} were. Nobody should label while it is compacted; then use --overwrite."
        )
    files = [{"path": item.path, "bytes": item.size_bytes} for item in target.list("") if _is_ours(item.path)]
    size_bytes = sum(item["bytes"] for item in files if isinstance(item["bytes"], int))
    manifest = {**plan, "complete": state.is_complete, "rows": rows, "size_bytes": size_bytes, "files": files}
    if finished != manifest:
        write_json(target, MANIFEST_PATH, manifest)
    return CompactSummary(target.uri, len(files), rows, size_bytes, rows_kept, state.is_complete)


def _plan(reader: RunReader, max_rows: int | None, max_mb: int | None) -> dict[str, Any]:
    """What is made of what; two compactions that agree in it make the same files."""
    digest = hashlib.sha256()
    for item in reader.store.list(LABELS_PREFIX):
        digest.update(f"{item.path}\0{item.size_bytes}\0".encode())
    labels = [{"id": label.id, "name": label.name} for label in reader.vocabulary().labels]
    return {
        "run": reader.store.uri,
        "fingerprint": reader.run["fingerprint"],
        "model": reader.run.get("model"),
        "schema_version": SCHEMA_VERSION,
        "labels": labels,
        "unit_files": digest.hexdigest(),
        "max_rows": max_rows,
        "max_mb": max_mb,
    }


def _claim(target: RunStore, plan: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the folder this compaction's own; nothing else in it is touched."""
    existing = read_json(target, PLAN_PATH)
    if existing is not None and existing != plan and overwrite:
        target.delete(MANIFEST_PATH)
        for item in list(target.list("")):
            if _is_ours(item.path):
                target.delete(item.path)
        target.delete(PLAN_PATH)
    if existing is None and any(item.path.endswith(".parquet") for item in target.list("")):
        raise InputError(f"{target.uri} holds other Parquet files. Choose an empty folder with -o.")
    if target.create(PLAN_PATH, encode_json(plan)):
        return
    existing = read_json(target, PLAN_PATH) or {}
    names = [name for name in plan if existing.get(name) != plan[name]]
    if names:
        shown = "; ".join(f"{name} {json.dumps(existing.get(name))}, now {json.dumps(plan[name])}" for name in names)
        raise RunMismatchError(
            f"{target.uri} holds another compaction: {shown}. Choose another folder with -o, or replace it with "
            "--overwrite."
        )


def _kept_files(target: RunStore) -> dict[str, int]:
    """Rows by name of the files that an earlier attempt left; what does not follow on from the first is removed."""
    kept: dict[str, int] = {}
    end = 0
    for item in list(target.list("")):
        match = _FILE_NAME.fullmatch(item.path)
        if match is None:
            continue
        if int(match["first"]) != end:
            target.delete(item.path)
            continue
        kept[item.path] = int(match["count"])
        end += int(match["count"])
    return kept


def _write_files(reader: RunReader, target: RunStore, skip: int, max_rows: int | None, max_mb: int | None) -> None:
    with tempfile.TemporaryDirectory(prefix="sam3lt-compact-") as folder:
        files = RowFiles(reader, Path(folder))
        first = skip
        for group in row_groups(_checked(reader), skip=skip, max_rows=max_rows):
            files.write(group)
            is_large = max_mb is not None and files.size_bytes >= max_mb * BYTES_PER_MB
            if files.rows == max_rows or is_large:
                first += _store(files, target, first)
        if files.rows or first == 0:
            if not files.rows:
                files.write(RowGroup())  # a run without images is a file without rows
            _store(files, target, first)


def _store(files: RowFiles, target: RunStore, first: int) -> int:
    rows, local_file = files.close()
    # The same rows make the same bytes: replacing what a compaction beside us has just written changes nothing.
    target.replace_from_file(f"{first:012d}-{rows:09d}.parquet", local_file)
    local_file.unlink()
    return rows


def _checked(reader: RunReader) -> Iterator[LabeledImage]:
    """:meth:`RunReader.iter_images` with one row per image: each shard in its own directory, its positions going up."""
    coverage = reader.coverage()
    for shard_dir, units in groupby(coverage.iter_units(), key=attrgetter("shard_dir")):
        shard, index = None, -1
        for image in reader.iter_shard(list(units), coverage):
            # Directories come once, and tell their shard: so no list of a million names is needed.
            if image.shard != shard and shard_directory(image.shard) != first_edition(shard_dir):
                raise RunMismatchError(
                    f"Labels of the shard {image.shard} stand in the directory {shard_dir}, which belongs to another "
                    "one; the run's files were mixed up."
                )
            if image.index <= index:
                raise RunMismatchError(f"Image {image.index} of shard {image.shard} stands twice in the run.")
            shard, index = image.shard, image.index
            yield image


def _verify(target: RunStore) -> int:
    """Read places of images back from every file; number of rows.

    Raises:
        RunMismatchError: A row is missing, twice, or out of order.
    """
    rows = 0
    last: tuple[str, int] | None = None
    for item in target.list(""):
        match = _FILE_NAME.fullmatch(item.path)
        if match is None:
            continue
        in_file = 0
        for shard, index in read_places(target, item.path):
            if last is not None and last[0] == shard and index <= last[1]:
                raise RunMismatchError(f"{target.location(item.path)} repeats image {index} of {shard}. Delete it.")
            last = (shard, index)
            in_file += 1
        if (int(match["first"]), int(match["count"])) != (rows, in_file):
            raise RunMismatchError(
                f"{target.location(item.path)} holds {in_file:,} rows and begins at {rows:,}; its name says otherwise. "
                "Delete it and start the command again."
            )
        rows += in_file
    return rows


def _is_ours(path: str) -> bool:
    return _FILE_NAME.fullmatch(path) is not None
