"""Everything that can be known and refused before Ray starts: checkpoint, vocabulary, input, run directory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sam3lt_ray.config.fingerprint import label_settings
from sam3lt_ray.config.schema import Config
from sam3lt_ray.demo.prompts import parse_phrase
from sam3lt_ray.engine.checkpoint import DEMO, Checkpoint, resolve_checkpoint
from sam3lt_ray.engine.token_counting import token_counter
from sam3lt_ray.errors import RetryableRunError
from sam3lt_ray.inputs.listing import list_input
from sam3lt_ray.labels.rows import Provenance
from sam3lt_ray.pipeline.collector import collector_paused
from sam3lt_ray.pipeline.fork import Origin
from sam3lt_ray.pipeline.nesting import refuse_file, refuse_nesting
from sam3lt_ray.pipeline.own_files import refuse_foreign_files
from sam3lt_ray.records import Shard
from sam3lt_ray.stages.read import MissingUnitReader
from sam3lt_ray.storage.coverage import Coverage
from sam3lt_ray.storage.filesystem import is_s3, local_path
from sam3lt_ray.storage.layers import Layer, questions_of, read_layers
from sam3lt_ray.storage.ledger import refuse_shared_directories
from sam3lt_ray.storage.run_directory import (
    RUN_PATH,
    VOCABULARY_PATH,
    RunIdentity,
    compare_identity,
    find_run,
    label_prompts,
    read_json,
)
from sam3lt_ray.storage.snapshot import MergedSnapshot, decode_snapshot, editions_of, merge_snapshot, read_snapshot_file
from sam3lt_ray.storage.store import RunStore, open_store
from sam3lt_ray.terminal import name_some
from sam3lt_ray.vocabulary.history import ContinuedLabels, KnownLabel, continue_labels, read_history
from sam3lt_ray.vocabulary.labels import Vocabulary
from sam3lt_ray.vocabulary.loading import load_vocabulary

_MAX_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that may start.

    Attributes:
        labels: The run's labels from now on, removed ones among them.
        identity: What this start would label with. The run's first layer asked the labels of *its* identity.
        snapshot: The shards the run covers from now on.
        exists: The run directory has a run.json.
        differences: What this start would label differently than the run did; empty for a new run.
        known_labels: The labels of the run before this start.
        known_snapshot: Hash of the snapshot that this start's listing was compared with.
        origin: The run that a new one is forked from.
        passed_over: How many files of each extension at the input location are no part of the input.
    """

    config: Config
    checkpoint: Checkpoint
    labels: ContinuedLabels
    store: RunStore
    identity: RunIdentity
    snapshot: MergedSnapshot
    exists: bool
    differences: Sequence[str]
    known_labels: Sequence[KnownLabel]
    known_snapshot: str
    origin: Origin | None
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels that are wanted."""
        return self.labels.vocabulary

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards the run covers, those of earlier starts first."""
        return self.snapshot.shards

    @collector_paused()
    def coverage(self) -> Coverage:
        """What is committed now, from a fresh listing."""
        run = find_run(self.store)
        layers = [] if run is None else read_layers(self.store, run)
        coverage = Coverage(layers, questions_of(self.vocabulary.labels), editions_of(self.shards))
        return coverage.list_layers(self.store)

    def provenance(self, layer: Layer) -> Provenance:
        """What each file of a layer will say about where its labels come from."""
        fingerprint = self.identity.layer_fingerprint(label_prompts(layer.labels))
        names = {label.id: label.name for label in self.vocabulary.labels}
        labels = tuple((label.id, names.get(label.id, label.name)) for label in layer.labels)
        return Provenance(fingerprint, describe_model(self.checkpoint), labels)

    def reader(self) -> MissingUnitReader:
        """Reads what is missing of a shard."""
        return MissingUnitReader(self.store, self.config.input, self.config.storage)

    def warning(self) -> str | None:
        """What was probably not meant, though it can be done: asking the demo checkpoint, the default, for anything."""
        if self.checkpoint.name != DEMO:
            return None
        unknown = [prompt.text for prompt in self.vocabulary.prompts if parse_phrase(prompt.text) is None]
        if not unknown:
            return None
        named = name_some([f'"{text}"' for text in unknown], _MAX_NAMED)
        return (
            f'the demo checkpoint knows coloured shapes only ("red circle"), and will find nothing for {named}: name '
            "another one in model.checkpoint."
        )

    def differences_to_origin(self) -> list[str]:
        """What this run labels differently than the one it is forked from."""
        return [] if self.origin is None else compare_identity(self.origin.identity, self.identity.to_json())

    def verify_unchanged(self) -> None:
        """Make sure, under the lease, that labels and shards are still those that were prepared for.

        Raises:
            RetryableRunError: Another start has changed them in between: an id could get two meanings, or labels of a
                shard's present content be taken for those of an earlier one.
        """
        run = find_run(self.store)
        if _known_labels(self.store, run) != list(self.known_labels):
            what = "labels"
        elif _hash(None if run is None else read_snapshot_file(self.store)) != self.known_snapshot:
            what = "shards"
        else:
            return
        raise RetryableRunError(
            f"Another start has just changed the {what} of the run in {self.store.uri}. Start this command again."
        )


@collector_paused()
def prepare_run(
    config: Config, base_dir: Path | None = None, *, discard_existing: bool = False, origin: Origin | None = None
) -> PreparedRun:
    """Resolve and check everything a run needs; reads, never writes.

    Args:
        config: The settings.
        base_dir: Folder that relative paths in the configuration start from; None: the working directory.
        discard_existing: Look at the run directory as if it were empty (it is going to be overwritten).
        origin: The run that a new one is forked from: the labels keep its ids.

    Raises:
        UsageError: Anything that no retry can help.
    """
    refuse_file(config)
    refuse_nesting(config)
    checkpoint = resolve_checkpoint(config.model.checkpoint, config.model.revision)
    with token_counter(checkpoint) as count_tokens:
        store = open_store(config.run.output, config.storage)
        if discard_existing:
            run, is_new = None, not store.exists(RUN_PATH)
        else:
            run = find_run(store)
            is_new = run is None
        if is_new:
            refuse_foreign_files(store)
        known_labels = _known_labels(store, run)
        vocabulary = load_vocabulary(
            config.vocabulary, base_dir=base_dir, count_tokens=count_tokens, max_tokens=checkpoint.max_tokens
        )
    labels = continue_labels(vocabulary, origin.known_labels if run is None and origin is not None else known_labels)
    identity = RunIdentity(
        settings=label_settings(config),
        model_files=checkpoint.files,
        labels=label_prompts(labels.vocabulary.labels),
        input_uri=_plain_uri(config.input.uri),
    )
    known_snapshot = None if run is None else read_snapshot_file(store)
    known_shards = decode_snapshot(store, known_snapshot)
    differences = [] if run is None else compare_identity(run.get("identity", {}), identity.to_json())
    if differences:
        snapshot, passed_over = MergedSnapshot(known_shards, [], [], []), {}
    else:
        listed = list_input(config.input, config.storage, known_shards)
        snapshot = merge_snapshot(known_shards, listed.shards, config.run.changed)
        passed_over = dict(listed.passed_over)
        refuse_shared_directories(shard.name for shard in snapshot.shards)
    return PreparedRun(
        config=config,
        checkpoint=checkpoint,
        labels=labels,
        store=store,
        identity=identity,
        snapshot=snapshot,
        exists=run is not None,
        differences=tuple(differences),
        known_labels=known_labels,
        known_snapshot=_hash(known_snapshot),
        origin=origin,
        passed_over=passed_over,
    )


def describe_model(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint as run.json and label files name it."""
    return {
        "checkpoint": checkpoint.name,
        "revision": checkpoint.revision,
        "model_type": checkpoint.model_type,
        "files": dict(checkpoint.files),
    }


def _hash(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def _known_labels(store: RunStore, run: Mapping[str, Any] | None) -> list[KnownLabel]:
    """Every label the run has ever had; those it began with where it was killed before it could write them down."""
    if run is None:
        return []
    stored = read_json(store, VOCABULARY_PATH)
    if stored is None:
        first = run.get("identity", {}).get("labels", {})
        stored = {"labels": [{"id": label_id, **label} for label_id, label in first.items()]}
    return read_history(stored)


def _plain_uri(uri: str) -> str:
    """The same place in one spelling: no slash at the end; local paths absolute."""
    return uri.rstrip("/") if is_s3(uri) else str(Path(local_path(uri)).resolve())
