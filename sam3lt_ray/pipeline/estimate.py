"""What a run will take, before it takes it: from counts or samples, a calibration or a stated rate.

Every figure comes with a sentence about where it is from. Nothing is written, and Ray is not started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

from sam3lt_ray.errors import InputError, UsageError
from sam3lt_ray.pipeline.actor_plan import ActorResources, plan_local_actors
from sam3lt_ray.pipeline.calibration import Calibration, CalibrationJob, calibrate
from sam3lt_ray.pipeline.costs import Cost, OutputSize, Terms, cost_of
from sam3lt_ray.pipeline.engine_factory import EngineFactory, segmenter_factory
from sam3lt_ray.pipeline.estimate_text import describe_estimate
from sam3lt_ray.pipeline.prepare import PreparedRun
from sam3lt_ray.pipeline.sampling import sample_input
from sam3lt_ray.pipeline.shard_sizes import ShardSizes, work_on
from sam3lt_ray.pipeline.worklist import Missing, labels_of
from sam3lt_ray.records import EncodedImage
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.filesystem import is_s3
from sam3lt_ray.storage.layers import Layer
from sam3lt_ray.storage.ledger import LABELS_PREFIX, is_retry
from sam3lt_ray.terminal import count_of
from sam3lt_ray.vocabulary.labels import Vocabulary

_LabelIds = frozenset[int]
_DEFAULT_CALIBRATION: Final = 64


@dataclass(frozen=True, slots=True)
class EstimateOptions:
    """What to estimate with.

    Attributes:
        price_per_gpu_hour: Price of one GPU (without GPUs: of one actor) for an hour, in whatever currency. Without a
            rate, some images are labeled to measure one.
        calibrate: Label this many images to measure; None: do not.
        images_per_s: Stated rate of one GPU or actor; None: not known.
        gpus: GPUs (or actors) that will work; None: those of this machine if it is measured, else ``compute.actors``.
    """

    price_per_gpu_hour: float | None = None
    calibrate: int | None = None
    images_per_s: float | None = None
    gpus: int | None = None

    def check(self) -> None:
        """Refuse what makes no sense together.

        Raises:
            UsageError: There are two rates.
        """
        if self.calibrate is not None and self.images_per_s is not None:
            raise UsageError("--calibrate measures what --images-per-second states: give one of them.")

    @property
    def calibrates_by_default(self) -> bool:
        """Money is asked for and no word is said about speed."""
        return self.price_per_gpu_hour is not None and self.calibrate is None and self.images_per_s is None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Costs of a run, and where the figures come from.

    Attributes:
        device: "GPU" | "CPU actor"; "device" where the rate was stated.
        devices: How many work.
        whole: Everything there is, as if nothing were done: all images asked all labels in one go.
        remaining: What a start would do now.
        images_from: How images were counted.
        rate_from: Where the speed comes from; None: there is none.
        images_per_s: Of one device, all labels asked.
        output_from: Where the size of labels comes from; None: it is not known.
    """

    device: str
    devices: int
    price_per_gpu_hour: float | None
    whole: Cost
    remaining: Cost
    images_from: str
    rate_from: str | None
    images_per_s: float | None
    output_from: str | None

    def to_lines(self) -> list[str]:
        """Lines for a person."""
        return describe_estimate(self)


def estimate_run(
    prepared: PreparedRun,
    coverage: Coverage,
    missing: Missing,
    counts: Mapping[str, int | None],
    options: EstimateOptions,
    load_engine: EngineFactory = segmenter_factory,
) -> Estimate:
    """Estimate what a run and the rest of it take.

    Args:
        prepared: The run.
        coverage: What is committed.
        missing: What is not.
        counts: Images by shard name, where the format tells.
        options: What to estimate with.
        load_engine: Makes the engine to calibrate with.

    Raises:
        InputError: There is no image to calibrate with.
        StorageError: The input cannot be read.
        CheckpointError: The checkpoint cannot be loaded.
    """
    config, is_default = prepared.config, options.calibrates_by_default
    if is_default:
        options = replace(options, calibrate=_DEFAULT_CALIBRATION)
    vanished = set(prepared.snapshot.vanished)
    shards = [shard for shard in prepared.shards if shard.name not in vanished]
    sample = sample_input(shards, config.input, config.storage, options.calibrate or 0)
    sizes = ShardSizes(prepared, coverage, counts, sample)
    everything = frozenset(label.id for label in prepared.vocabulary.labels)
    whole = work_on(everything, [(shard, [(0, sizes.images(shard))]) for shard in shards], sizes)
    remaining = {
        label_ids: work_on(
            label_ids,
            [
                (shard, [(gap.first, sizes.images(shard) if gap.end is None else gap.end) for gap in gaps])
                for shard, gaps in of_shards
            ],
            sizes,
        )
        for label_ids, of_shards in missing.items()
    }
    resources, measured = None, {}
    if options.calibrate is not None:
        resources = plan_local_actors(config.compute, prepared.checkpoint.weight_bytes)
        measured = _calibrate({everything, *remaining}, prepared, sample.images, resources, load_engine)
    rates = {label_ids: _rate(measured.get(label_ids), resources, options) for label_ids in {everything, *remaining}}
    outputs = _outputs({everything, *remaining}, measured, prepared, coverage)
    terms = Terms(
        devices=options.gpus or _num_devices(resources, config.compute.actors),
        price_per_hour=options.price_per_gpu_hour,
        input_on_s3=is_s3(config.input.uri),
        run_on_s3=is_s3(config.run.output),
        input_files=sum(max(1, len(shard.members)) for shard in shards),
    )
    return Estimate(
        device="device" if resources is None else "GPU" if resources.device == "cuda" else "CPU actor",
        devices=terms.devices,
        price_per_gpu_hour=options.price_per_gpu_hour,
        whole=cost_of([(whole, rates[everything], outputs.get(everything))], terms),
        remaining=cost_of([(work, rates[ids], outputs.get(ids)) for ids, work in remaining.items()], terms),
        images_from=sizes.describe(shards),
        rate_from=_describe_rate(measured, everything, resources, options, is_default=is_default),
        images_per_s=rates[everything],
        output_from=_describe_output(measured.get(everything), outputs),
    )


def _num_devices(resources: ActorResources | None, actors: int | Literal["auto"]) -> int:
    """Those that were measured on, else what the config says of actors."""
    if resources is None:
        return 1 if actors == "auto" else actors
    return max(1, round(resources.num_actors * (resources.num_gpus or 1)))


def _calibrate(
    questions: Iterable[_LabelIds],
    prepared: PreparedRun,
    images: Sequence[EncodedImage],
    resources: ActorResources,
    load_engine: EngineFactory,
) -> dict[_LabelIds, Calibration]:
    if not images:
        raise InputError("There is no image in the input to calibrate with; state --images-per-second instead.")
    # Actors on GPUs do not share one, unless they are told to; on CPUs all of them run side by side.
    at_once = max(1, int(1 // resources.num_gpus)) if resources.device == "cuda" else resources.num_actors
    config = prepared.config
    jobs = {}
    for label_ids in questions:
        vocabulary = Vocabulary(labels_of(prepared, label_ids), prepared.vocabulary.source)
        prompts = tuple(prompt.text for prompt in vocabulary.prompts)
        jobs[label_ids] = CalibrationJob(
            load_engine=partial(load_engine, prepared.checkpoint, prompts, config, resources),
            vocabulary=vocabulary,
            provenance=prepared.provenance(Layer("000", vocabulary.labels)),
            merge_iou=config.labeling.merge_iou,
            max_pixels=config.input.max_pixels,
            decode_threads=resources.decode_threads,
            loose_files=config.input.has_loose_files,
        )
    return dict(zip(jobs, calibrate(list(jobs.values()), images, at_once), strict=True))


def _rate(measured: Calibration | None, resources: ActorResources | None, options: EstimateOptions) -> float | None:
    """Images per second of one device."""
    if measured is None:
        return options.images_per_s
    return measured.images_per_s / _devices_at_once(measured, resources)


def _devices_at_once(measured: Calibration, resources: ActorResources | None) -> int:
    """How many devices were measured together: a GPU that actors share is one."""
    return 1 if resources is not None and resources.device == "cuda" else measured.num_processes


def _outputs(
    questions: Iterable[_LabelIds],
    measured: Mapping[_LabelIds, Calibration],
    prepared: PreparedRun,
    coverage: Coverage,
) -> dict[_LabelIds, OutputSize]:
    """Size of labels by what was asked: measured, else that of units which were asked the same."""
    if measured:
        return {ids: of_ids.output for ids, of_ids in measured.items()}
    by_answers = {ids: name for name, ids in coverage.answers.items()}
    found = {}
    for ids in questions:
        if ids in by_answers:
            images = sum(unit.range.count for unit in coverage.iter_units() if unit.layer == by_answers[ids])
            listed = prepared.store.list(f"{LABELS_PREFIX}/{by_answers[ids]}")
            num_bytes = sum(file.size_bytes for file in listed if not is_retry(file.path))
            if images:
                found[ids] = OutputSize(num_bytes / images, 0.0)
    return found


def _describe_rate(
    measured: Mapping[_LabelIds, Calibration],
    everything: _LabelIds,
    resources: ActorResources | None,
    options: EstimateOptions,
    *,
    is_default: bool,
) -> str | None:
    if everything not in measured:
        return None if options.images_per_s is None else "as stated, whatever labels are asked"
    found = measured[everything]
    first, devices = found.rounds[0][0], _devices_at_once(found, resources)
    errors = f", {first.errors} of them unusable" if first.errors else ""
    where = (
        "one GPU"
        if resources is not None and resources.device == "cuda"
        else f"{count_of(found.num_processes, 'process', 'es')} at once, as a run has them here"
    )
    low, high = min(found.rates) / devices, max(found.rates) / devices
    rounds = f" in {count_of(len(found.rates), 'round')} ({low:.3g} to {high:.3g} images/s)"
    layers = f"; each of {len(measured)} sets of labels" if len(measured) > 1 else ""
    default = ", as no rate was given (--calibrate N, --images-per-second R)" if is_default else ""
    return f"measured on {count_of(first.images, 'image')}{errors}{rounds}, by {where}{layers}{default}"


def _describe_output(measured: Calibration | None, outputs: Mapping[_LabelIds, OutputSize]) -> str | None:
    if measured is not None:
        return f"from the labels of {count_of(measured.rounds[0][0].images, 'image')}"
    return "from units that are committed" if outputs else None
