"""``sam3lt plan``: what a run would do, without doing it, writing anything or starting Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import EXIT_DONE, EXIT_USAGE, UsageError
from sam3lt_ray.inputs.counting import count_images
from sam3lt_ray.inputs.listing import describe_files
from sam3lt_ray.pipeline.engine_factory import EngineFactory, segmenter_factory
from sam3lt_ray.pipeline.estimate import Estimate, EstimateOptions, estimate_run
from sam3lt_ray.pipeline.estimate_text import format_size
from sam3lt_ray.pipeline.feeding import cores_per_gpu
from sam3lt_ray.pipeline.fork import find_origin
from sam3lt_ray.pipeline.prepare import PreparedRun, prepare_run
from sam3lt_ray.pipeline.run_files import apply_policy
from sam3lt_ray.pipeline.worklist import Missing, find_missing, labels_of, num_rows, plan_retries
from sam3lt_ray.records import Shard
from sam3lt_ray.storage.coverage import Coverage, Gap
from sam3lt_ray.storage.layers import find_layer, questions_of
from sam3lt_ray.terminal import count_of, name_some

_MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """Labels that will be asked together.

    Attributes:
        layer: Its name; None: a new one.
        labels: Names of the labels.
        shards: Shards with images that will be asked.
        images: How many these are; None where the format only tells by reading.
    """

    layer: str | None
    labels: tuple[str, ...]
    shards: int
    images: int | None


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What is there, what is done, what a start would do.

    Attributes:
        shards_changed: Shards with other content than was labeled, which will be labeled anew.
        files_passed_over: How many files of each extension at the input location are no part of the input.
        images_total: Images of the whole input; None where the format only tells by reading everything.
        images_done: Images that were asked all labels.
        images_to_do: The same for what is missing.
        label_changes: What the vocabulary changes in the run: "new: cat", ...
        layers: What will be asked of which images.
        rows_to_retry: Error rows that would be made again; None: nobody asked for that.
        cores_per_gpu: CPU cores that one GPU keeps busy with this vocabulary, by rule of thumb.
        warning: What was probably not meant, though a start would do it.
        rerun: "new" | "continue" | "nothing to do" | "refused".
        differences: Settings that change labels and differ from the run's.
        refusal: Why a start would be refused; None: it would not be.
        estimate: Time, money, bytes and requests; None: nobody asked, or a start would be refused.
    """

    run: str
    forked_from: str | None
    input: str
    format: str
    checkpoint: str
    labels: int
    prompts: int
    label_changes: tuple[str, ...]
    shards_total: int
    shards_done: int
    shards_partly_done: int
    shards_new: int
    shards_changed: int
    shards_vanished: int
    images_vanished: int
    files_passed_over: Mapping[str, int]
    bytes_total: int | None
    bytes_to_do: int | None
    images_total: int | None
    images_done: int
    images_to_do: int | None
    units_done: int
    layers: tuple[PlannedLayer, ...]
    rows_to_retry: int | None
    cores_per_gpu: int
    warning: str | None
    rerun: str
    differences: tuple[str, ...]
    refusal: str | None
    estimate: Estimate | None

    @property
    def exit_code(self) -> int:
        """The one a start would end with at once, where it would be refused."""
        return EXIT_DONE if self.refusal is None else EXIT_USAGE

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        if self.estimate is None:
            del values["estimate"]
        return values

    def to_text(self) -> str:
        """Lines for a person."""
        lines = [
            f"run          {self.run} ({self.rerun})",
            f"input        {self.input} ({self.format})",
            f"model        {self.checkpoint}",
            f"vocabulary   {count_of(self.labels, 'label')}, {count_of(self.prompts, 'prompt')}",
            *(f"labels       {line}" for line in self.label_changes),
            f"shards       {self.shards_total}: {self.shards_done} done, {self.shards_partly_done} partly done, "
            f"{self.shards_total - self.shards_done - self.shards_partly_done} untouched; {self.shards_new} new",
            f"images       {_number(self.images_total)}: {self.images_done:,} done, {_number(self.images_to_do)} to do",
            f"bytes        {_size(self.bytes_total)}: {_size(self.bytes_to_do)} to do",
        ]
        if self.warning is not None:
            lines.append(f"warning      {self.warning}")
        if self.files_passed_over:
            lines.append(f"passed over  {describe_files(Counter(self.files_passed_over))}")
        if self.forked_from is not None:
            lines.insert(1, f"fork of      {self.forked_from}; nothing is reused")
        if self.rows_to_retry is not None:
            lines.append(f"retry        {self.rows_to_retry:,} error rows, and nothing else")
        else:
            lines += [_describe_layer(layer) for layer in self.layers]
        lines.append(f"cores        {self.cores_per_gpu} per GPU keep it busy (JPEGs of about 1280 x 960)")
        if self.shards_changed:
            lines.append(
                f"changed      {count_of(self.shards_changed, 'shard')} with other content; labels are replaced"
            )
        for number, thing in ((self.shards_vanished, "shard"), (self.images_vanished, "image")):
            if number:
                lines.append(f"vanished     {count_of(number, thing)} gone from the input; labels are kept")
        lines += [f"differs      {line}" for line in self.differences]
        if self.refusal is not None and not self.differences:
            lines.append(f"refused      {self.refusal}")
        if self.estimate is not None:
            lines += self.estimate.to_lines()
        return "\n".join(lines)


def plan_run(
    config: Config,
    base_dir: Path | None = None,
    *,
    retry_errors: bool = False,
    fork: str | None = None,
    estimate: EstimateOptions | None = None,
    load_engine: EngineFactory | None = None,
) -> PlanReport:
    """Look at input and run directory.

    Args:
        config: The settings.
        base_dir: Folder that relative paths in the configuration start from; None: the working directory.
        retry_errors: Plan for ``--retry-errors``; reads what says which rows have errors.
        fork: Plan for ``--fork``: the new run directory.
        estimate: Estimate time, money, bytes and requests too.
        load_engine: Makes the engine to calibrate with; None: the real one.

    Raises:
        UsageError: The run could not start, or what was asked of the estimate makes no sense.
    """
    if estimate is not None:
        estimate.check()
        if retry_errors:
            raise UsageError("--retry-errors is planned without an estimate: leave its options away.")
    origin = None if fork is None else find_origin(config, fork)
    config = config if origin is None else origin.forked_config
    is_discarded = config.run.on_exists == "overwrite"
    prepared = prepare_run(config, base_dir, discard_existing=is_discarded, origin=origin)
    refusal = _refusal(prepared, retry_errors=retry_errors)
    coverage = Coverage([], questions_of(prepared.vocabulary.labels)) if is_discarded else prepared.coverage()
    # Without labels of a content that a shard no longer has: a start removes them.
    missing = {} if prepared.differences else find_missing(prepared, coverage)
    todo = {shard.name for shards in missing.values() for shard, _ in shards}
    started = {shard.name for shard in prepared.shards if coverage.units(shard)}
    counts = {shard.name: count_images(shard, config.input, config.storage) for shard in prepared.shards}
    images_total = None if None in counts.values() else sum(count or 0 for count in counts.values())
    images_done = sum(coverage.num_done(shard) for shard in prepared.shards if shard.name in started)
    retries = None
    if retry_errors:
        retries = num_rows(plan_retries(prepared, coverage)) if prepared.exists else 0
    vocabulary = prepared.vocabulary
    return PlanReport(
        run=prepared.store.uri,
        forked_from=None if origin is None else origin.uri,
        input=config.input.uri,
        format=config.input.format,
        checkpoint=prepared.checkpoint.name,
        labels=len(vocabulary.labels),
        prompts=len(vocabulary.prompts),
        label_changes=tuple(prepared.labels.change.to_text()),
        shards_total=len(prepared.shards),
        shards_done=sum(1 for shard in prepared.shards if shard.name in started and shard.name not in todo),
        shards_partly_done=len(started & todo),
        shards_new=len(prepared.snapshot.new),
        shards_changed=len(prepared.snapshot.changed),
        shards_vanished=len(prepared.snapshot.vanished),
        images_vanished=len(prepared.snapshot.vanished_images),
        files_passed_over=prepared.passed_over,
        bytes_total=_sum_bytes(prepared.shards),
        bytes_to_do=_sum_bytes([shard for shard in prepared.shards if shard.name in todo]),
        images_total=images_total,
        images_done=images_done,
        images_to_do=None if images_total is None else images_total - images_done,
        units_done=coverage.num_wanted_units,
        layers=_planned_layers(prepared, coverage, missing, counts),
        rows_to_retry=retries,
        cores_per_gpu=cores_per_gpu(len(vocabulary.prompts)),
        warning=prepared.warning(),
        rerun="refused" if refusal is not None else _rerun(prepared, bool(todo) if retries is None else retries > 0),
        differences=tuple(prepared.differences),
        refusal=refusal,
        estimate=None
        if estimate is None or refusal is not None
        else estimate_run(prepared, coverage, missing, counts, estimate, load_engine or segmenter_factory),
    )


def _refusal(prepared: PreparedRun, *, retry_errors: bool) -> str | None:
    try:
        apply_policy(prepared, prepared.config.run.on_exists, retry_errors=retry_errors)
    except UsageError as error:
        return error.message
    return None


def _planned_layers(
    prepared: PreparedRun, coverage: Coverage, missing: Missing, images: Mapping[str, int | None]
) -> tuple[PlannedLayer, ...]:
    planned = []
    for label_ids, shards in missing.items():
        labels = labels_of(prepared, label_ids)
        found = find_layer(coverage.layers, labels)
        counts = [_num_missing(gaps, images[shard.name]) for shard, gaps in shards]
        total = None if None in counts else sum(count for count in counts if count is not None)
        names = tuple(label.name for label in labels)
        planned.append(PlannedLayer(None if found is None else found.name, names, len(shards), total))
    return tuple(planned)


def _describe_layer(layer: PlannedLayer) -> str:
    names = name_some(layer.labels, _MAX_NAMED)
    images = "" if layer.images is None else f"{count_of(layer.images, 'image')} in "
    return f"will ask     {count_of(len(layer.labels), 'label')} ({names}) of {images}{count_of(layer.shards, 'shard')}"


def _num_missing(gaps: Sequence[Gap], num_images: int | None) -> int | None:
    count = 0
    for gap in gaps:
        end = num_images if gap.end is None else gap.end
        if end is None:
            return None
        count += end - gap.first
    return count


def _rerun(prepared: PreparedRun, has_work: bool) -> str:
    if not prepared.exists:
        return "new"
    return "continue" if has_work else "nothing to do"


def _sum_bytes(shards: Sequence[Shard]) -> int | None:
    sizes = [shard.size_bytes for shard in shards]
    return None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)


def _number(value: int | None) -> str:
    return "not known before reading" if value is None else f"{value:,}"


def _size(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else format_size(num_bytes)
