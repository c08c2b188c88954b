"""``sam3lt plan``: what a run would do, without doing it, writing anything or starting Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sam3lt_ray.config.schema import Config
from sam3lt_ray.inputs.counting import count_images
from sam3lt_ray.pipeline.feeding import cores_per_gpu
from sam3lt_ray.pipeline.prepare import PreparedRun, prepare_run
from sam3lt_ray.records import Shard


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What is there, what is done, what a start would do.

    Attributes:
        images_total: Images of the whole input; None where the format only tells by reading everything.
        images_to_do: The same for what is missing.
        cores_per_gpu: CPU cores that one GPU keeps busy with this vocabulary, by rule of thumb.
        rerun: "new" | "continue" | "nothing to do" | "refused".
        differences: Why a start would be refused: settings that change labels and differ from the run's.
    """

    run: str
    input: str
    format: str
    checkpoint: str
    labels: int
    prompts: int
    shards_total: int
    shards_done: int
    shards_partly_done: int
    shards_new: int
    shards_vanished: int
    bytes_total: int | None
    bytes_to_do: int | None
    images_total: int | None
    images_done: int
    images_to_do: int | None
    units_done: int
    cores_per_gpu: int
    rerun: str
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_text(self) -> str:
        """Lines for a person."""
        lines = [
            f"run          {self.run} ({self.rerun})",
            f"input        {self.input} ({self.format})",
            f"model        {self.checkpoint}",
            f"vocabulary   {self.labels} labels, {self.prompts} prompts",
            f"shards       {self.shards_total}: {self.shards_done} done, {self.shards_partly_done} partly done, "
            f"{self.shards_total - self.shards_done - self.shards_partly_done} untouched",
            f"images       {_number(self.images_total)}: {self.images_done:,} done, {_number(self.images_to_do)} to do",
            f"bytes        {_size(self.bytes_total)}: {_size(self.bytes_to_do)} to do",
        ]
        lines.append(f"cores        {self.cores_per_gpu} per GPU keep it busy (JPEGs of about 1280 x 960)")
        if self.shards_vanished:
            lines.append(f"vanished     {self.shards_vanished} shards are gone from the input; their labels are kept")
        lines += [f"differs      {line}" for line in self.differences]
        return "\n".join(lines)


def plan_run(config: Config, base_dir: Path | None = None) -> PlanReport:
    """Look at input and run directory.

    Args:
        config: The settings.
        base_dir: Folder that relative paths in the configuration start from; None: the working directory.

    Raises:
        UsageError: The run could not start.
    """
    prepared = prepare_run(config, base_dir)
    ledger = prepared.ledger()
    todo = {work.shard.name for work in prepared.missing(ledger)}
    started = {shard.name for shard in prepared.shards if ledger.units(shard.name)}
    images_total = _count_images(prepared)
    images_done = ledger.total_images()
    return PlanReport(
        run=prepared.store.uri,
        input=config.input.uri,
        format=config.input.format,
        checkpoint=prepared.checkpoint.name,
        labels=len(prepared.vocabulary.labels),
        prompts=len(prepared.vocabulary.prompts),
        shards_total=len(prepared.shards),
        shards_done=sum(1 for shard in prepared.shards if shard.name in started and shard.name not in todo),
        shards_partly_done=len(started & todo),
        shards_new=len(prepared.new_shards),
        shards_vanished=len(prepared.vanished),
        bytes_total=_sum_bytes(prepared.shards),
        bytes_to_do=_sum_bytes([shard for shard in prepared.shards if shard.name in todo]),
        images_total=images_total,
        images_done=images_done,
        images_to_do=None if images_total is None else images_total - images_done,
        units_done=ledger.total_units(),
        cores_per_gpu=cores_per_gpu(len(prepared.vocabulary.prompts)),
        rerun=_rerun(prepared, todo),
        differences=tuple(prepared.differences),
    )


def _rerun(prepared: PreparedRun, todo: set[str]) -> str:
    if prepared.differences:
        return "refused"
    if not prepared.exists:
        return "new"
    return "continue" if todo else "nothing to do"


def _count_images(prepared: PreparedRun) -> int | None:
    total = 0
    for shard in prepared.shards:
        count = count_images(shard, prepared.config.input, prepared.config.storage)
        if count is None:
            return None
        total += count
    return total


def _sum_bytes(shards: Sequence[Shard]) -> int | None:
    sizes = [shard.size_bytes for shard in shards]
    return None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)


def _number(value: int | None) -> str:
    return "not known before reading" if value is None else f"{value:,}"


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "unknown"
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.2f} MB"
