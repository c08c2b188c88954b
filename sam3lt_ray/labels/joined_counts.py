"""The totals of a run from as few bytes as possible: footers, and rows only of units that have errors and need joining.

Instances add up over layers and retries, for each (image, label) pair is answered once and an error row has none.
Images are counted from names. An image that failed in several layers is one error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

from sam3lt_ray.labels.footer import read_counts
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.ledger import UnitFile, parse_unit_path

_CHUNK: Final = 2_000  # units whose footers are in memory at a time


@dataclass(slots=True)
class SeenCounts:
    """Counts of files that need not be opened, because this process has just made them.

    Attributes:
        paths: The files.
        errors: Errors by kind of those among them that have any.
        instances: Instances of all of them together, by layer and label.
    """

    paths: set[str] = field(default_factory=set)
    errors: dict[str, Mapping[str, int]] = field(default_factory=dict)
    instances: dict[str, Counter[int]] = field(default_factory=dict)

    def add(self, path: str, counts: UnitCounts) -> None:
        """Remember a file."""
        unit = parse_unit_path(path)
        assert unit is not None
        self.paths.add(path)
        if counts.errors:
            self.errors[path] = counts.errors
        self.instances.setdefault(unit.layer, Counter()).update(counts.instances)


def joined_counts(reader: RunReader, coverage: Coverage, seen: SeenCounts | None = None) -> UnitCounts:
    """Images, errors by kind and instances by label of everything that is committed and wanted.

    Args:
        reader: The run.
        coverage: What is committed.
        seen: What needs no reading.
    """
    if seen is None or any(coverage.is_asked_twice(units) for units in _shards(coverage)):
        seen = SeenCounts()
    images, errors, instances = 0, Counter[str](), Counter[int]()
    for units, counts in _with_counts(reader, coverage, seen):
        if coverage.is_asked_twice(units):
            for image in reader.iter_shard(units, coverage):
                images += 1
                errors.update([str(image.error_kind)] if image.status == "error" else [])
                instances.update(found.label_id for found in image.instances)
            continue
        images += _num_images(units)
        errors.update(_errors(reader, units, counts))
        for unit in units:
            for path in unit.paths:
                instances.update(_wanted(counts[path].instances, coverage.answers[unit.layer]))
    for layer, of_layer in seen.instances.items():
        instances.update(_wanted(of_layer, coverage.answers.get(layer, frozenset())))
    return UnitCounts(images, dict(errors), dict(instances))


def num_unseen(coverage: Coverage, seen: SeenCounts) -> int:
    """How many files :func:`joined_counts` would have to open."""
    return sum(1 for unit in coverage.iter_units() for path in unit.paths if path not in seen.paths)


def failed_rows(reader: RunReader, unit: UnitFile) -> dict[int, str]:
    """Index -> error kind of the images that a unit could not label, its retries taken into account."""
    table = reader.read_table(unit, ["index", "status", "error_kind"])
    rows = zip(*(table.column(name).to_pylist() for name in ("index", "status", "error_kind")), strict=True)
    return {int(index): str(kind) for index, status, kind in rows if status == "error"}


def _wanted(instances: Mapping[int, int], label_ids: frozenset[int]) -> dict[int, int]:
    return {label_id: count for label_id, count in instances.items() if label_id in label_ids}


def _with_counts(
    reader: RunReader, coverage: Coverage, seen: SeenCounts
) -> Iterator[tuple[list[UnitFile], Mapping[str, UnitCounts]]]:
    """The units of each shard with the counts in their footers."""
    for shards in _chunks(coverage):
        paths = [path for units in shards for unit in units for path in unit.paths]
        unseen = [path for path in paths if path not in seen.paths]
        counts = {path: UnitCounts(errors=seen.errors.get(path, {})) for path in paths}
        counts |= zip(unseen, read_counts(reader.store, unseen), strict=True)
        for units in shards:
            yield units, counts


def _shards(coverage: Coverage) -> Iterator[list[UnitFile]]:
    for _, units in groupby(coverage.iter_units(), key=attrgetter("shard_dir")):
        yield list(units)


def _chunks(coverage: Coverage) -> Iterator[list[list[UnitFile]]]:
    """Whole shards, together about ``_CHUNK`` units."""
    chunk: list[list[UnitFile]] = []
    num_units = 0
    for units in _shards(coverage):
        chunk.append(units)
        num_units += len(units)
        if num_units >= _CHUNK:
            yield chunk
            chunk, num_units = [], 0
    yield chunk


def _num_images(units: Sequence[UnitFile]) -> int:
    """Images that are in at least one of a shard's units, which are in order of their first image."""
    count = position = 0
    for unit in units:
        count += max(0, unit.range.end - max(position, unit.range.first))
        position = max(position, unit.range.end)
    return count


def _errors(reader: RunReader, units: Sequence[UnitFile], counts: Mapping[str, UnitCounts]) -> Mapping[str, int]:
    with_errors = [unit for unit in units if counts[unit.path].errors]
    if len({unit.layer for unit in with_errors}) <= 1 and not any(unit.num_retries for unit in with_errors):
        return sum((Counter(counts[unit.path].errors) for unit in with_errors), Counter())
    kinds: dict[int, str] = {}
    for unit in sorted(with_errors, key=lambda unit: int(unit.layer)):
        for index, kind in failed_rows(reader, unit).items():
            kinds.setdefault(index, kind)
    return Counter(kinds.values())
