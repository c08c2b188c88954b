"""The totals of a run from as few bytes as possible: footers, and rows only of units that have errors and need joining.

Instances add up over layers and retries, for each (image, label) pair is answered once and an error row has none.
Images are counted from names. An image that failed in several layers is one error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import compress, groupby
from operator import attrgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from sam3lt_ray.labels.footer import read_counts
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.labels.totals import RunTotals, file_id
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.layers import layer_number
from sam3lt_ray.storage.ledger import UnitFile, layer_of, shard_dir_of

_CHUNK: Final = 2_000  # files whose footers are read at a time


def joined_counts(
    reader: RunReader,
    coverage: Coverage,
    totals: RunTotals,
    *,
    max_reads: int | None = None,
    may_read_rows: bool = True,
) -> UnitCounts | None:
    """Images, errors by kind and instances by label of everything that is committed and wanted.

    Args:
        reader: The run.
        coverage: What is committed.
        totals: What is known without reading; takes in what had to be read.
        max_reads: Files to open at most for their footers; the rest is left to the next call.
        may_read_rows: Else what needs rows (errors in several layers or retries) is left to the next call.

    Returns:
        None when there was more to read than allowed.
    """
    ids = totals.forget_missing(coverage.all_paths())
    unknown = _wanted_paths(coverage, ~totals.are_known(ids))
    chosen = unknown[:max_reads]
    for start in range(0, len(chosen), _CHUNK):
        some = chosen[start : start + _CHUNK]
        for path, counts in zip(some, read_counts(reader.store, some), strict=True):
            totals.add(path, counts)
    if len(chosen) < len(unknown):
        return None
    known_errors = totals.errors()
    failed = {path: known_errors[file_id(path)] for path in _wanted_paths(coverage, totals.have_errors(ids))}
    failed_dirs = {shard_dir_of(path) for path in failed}
    images, errors, instances = 0, Counter[str](), Counter[int]()
    for units in _shards(coverage):
        if coverage.is_asked_twice(units):
            return _read_rows(reader, coverage) if may_read_rows else None
        images += _num_images(units)
        if units[0].shard_dir not in failed_dirs:
            continue
        with_errors = {unit: kinds for unit in units if (kinds := failed.get(unit.path))}
        if not may_read_rows and _need_rows(with_errors):
            return None
        errors.update(_errors(reader, with_errors))
    for layer, of_layer in totals.instances().items():
        wanted = coverage.answers.get(layer, frozenset())
        instances.update({label_id: count for label_id, count in of_layer.items() if label_id in wanted})
    return UnitCounts(images, dict(errors), dict(instances))


def failed_rows(reader: RunReader, unit: UnitFile) -> dict[int, str]:
    """Index -> error kind of the images that a unit could not label, its retries taken into account."""
    table = reader.read_table(unit, ["index", "status", "error_kind"])
    rows = zip(*(table.column(name).to_pylist() for name in ("index", "status", "error_kind")), strict=True)
    return {int(index): str(kind) for index, status, kind in rows if status == "error"}


def _read_rows(reader: RunReader, coverage: Coverage) -> UnitCounts:
    """The same from every row: where two layers answer the same label, sums do not say which answer counts."""
    images, errors, instances = 0, Counter[str](), Counter[int]()
    for units in _shards(coverage):
        for image in reader.iter_shard(units, coverage):
            images += 1
            errors.update([str(image.error_kind)] if image.status == "error" else [])
            instances.update(found.label_id for found in image.instances)
    return UnitCounts(images, dict(errors), dict(instances))


def _wanted_paths(coverage: Coverage, chosen: npt.NDArray[np.bool_]) -> list[str]:
    """Some of all committed files, of them those with labels that are wanted.

    Args:
        coverage: What is committed.
        chosen: For each of ``coverage.all_paths()`` whether it is one of them.
    """
    if not chosen.any():
        return []
    return [path for path in compress(coverage.all_paths(), chosen.tolist()) if layer_of(path) in coverage.answers]


def _shards(coverage: Coverage) -> Iterator[list[UnitFile]]:
    for _, units in groupby(coverage.iter_units(), key=attrgetter("shard_dir")):
        yield list(units)


def _num_images(units: Sequence[UnitFile]) -> int:
    """Images that are in at least one of a shard's units, which are in order of their first image."""
    count = position = 0
    for unit in units:
        count += max(0, unit.range.end - max(position, unit.range.first))
        position = max(position, unit.range.end)
    return count


def _need_rows(units: Collection[UnitFile]) -> bool:
    """Whether sums do not say which of a shard's images the errors of some of its units are about."""
    return len({unit.layer for unit in units}) > 1 or any(unit.num_retries for unit in units)


def _errors(reader: RunReader, kinds_of: Mapping[UnitFile, Mapping[str, int]]) -> Mapping[str, int]:
    if not _need_rows(kinds_of):
        return sum((Counter(kinds) for kinds in kinds_of.values()), Counter())
    by_index: dict[int, str] = {}
    for unit in sorted(kinds_of, key=lambda unit: layer_number(unit.layer)):
        for index, kind in failed_rows(reader, unit).items():
            by_index.setdefault(index, kind)
    return Counter(by_index.values())
