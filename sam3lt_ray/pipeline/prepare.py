"""Everything that can be known and refused before Ray starts: checkpoint, vocabulary, input, run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sam3lt_ray.config.fingerprint import label_settings
from sam3lt_ray.config.schema import Config
from sam3lt_ray.engine.checkpoint import Checkpoint, PromptTokenizer, resolve_checkpoint
from sam3lt_ray.inputs.listing import list_shards
from sam3lt_ray.labels.rows import Provenance
from sam3lt_ray.records import Shard
from sam3lt_ray.stages.read import ShardWork
from sam3lt_ray.storage.filesystem import is_s3, local_path
from sam3lt_ray.storage.ledger import LABELS_PREFIX, Ledger, parse_unit_path
from sam3lt_ray.storage.run_directory import (
    RUN_PATH,
    VOCABULARY_PATH,
    RunIdentity,
    compare_identity,
    read_json,
)
from sam3lt_ray.storage.snapshot import merge_snapshot, read_snapshot
from sam3lt_ray.storage.store import RunStore, StoredFile, open_store
from sam3lt_ray.vocabulary.ids import assign_ids
from sam3lt_ray.vocabulary.labels import Vocabulary
from sam3lt_ray.vocabulary.loading import load_vocabulary

FIRST_LAYER: Final = "000"


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that may start.

    Attributes:
        shards: All shards the run covers, those of earlier starts first.
        new_shards: Shards that no earlier start knew.
        vanished: Names of known shards that the input no longer holds.
        exists: The run directory has a run.json.
        differences: What this start would label differently than the run did; empty for a new run.
    """

    config: Config
    checkpoint: Checkpoint
    vocabulary: Vocabulary
    store: RunStore
    identity: RunIdentity
    shards: Sequence[Shard]
    new_shards: Sequence[Shard]
    vanished: Sequence[str]
    exists: bool
    differences: Sequence[str]

    @property
    def provenance(self) -> Provenance:
        """What each unit's file will say about where its labels come from."""
        labels = tuple((label.id, label.name) for label in self.vocabulary.labels)
        return Provenance(self.identity.fingerprint, describe_model(self.checkpoint), labels)

    def unit_files(self) -> list[StoredFile]:
        """What is committed now, from a fresh listing."""
        listed = self.store.list(f"{LABELS_PREFIX}/{FIRST_LAYER}")
        return [stored for stored in listed if parse_unit_path(stored.path) is not None]

    def ledger(self, files: Sequence[StoredFile] | None = None) -> Ledger:
        """Which units that is; without ``files``, from a fresh listing."""
        paths = (stored.path for stored in (self.unit_files() if files is None else files))
        return Ledger.from_paths(FIRST_LAYER, paths)

    def missing(self, ledger: Ledger) -> list[ShardWork]:
        """What is to do; complete shards are not in it, nor are vanished ones."""
        vanished = set(self.vanished)
        work = []
        for shard in self.shards:
            gaps = ledger.gaps(shard.name)
            if gaps and shard.name not in vanished:
                work.append(ShardWork(shard, ledger.units(shard.name), tuple(gaps)))
        return work


def prepare_run(config: Config, base_dir: Path | None = None, *, discard_existing: bool = False) -> PreparedRun:
    """Resolve and check everything a run needs; reads, never writes.

    Args:
        config: The settings.
        base_dir: Folder that relative paths in the configuration start from; None: the working directory.
        discard_existing: Look at the run directory as if it were empty (it is going to be overwritten).

    Raises:
        UsageError: Anything that no retry can help.
    """
    checkpoint = resolve_checkpoint(config.model.checkpoint, config.model.revision)
    tokenizer = PromptTokenizer(checkpoint)
    vocabulary = load_vocabulary(
        config.vocabulary, base_dir=base_dir, count_tokens=tokenizer.count_tokens, max_tokens=checkpoint.max_tokens
    )
    store = open_store(config.run.output, config.storage)
    run = None if discard_existing else read_json(store, RUN_PATH)
    known_ids = _known_label_ids(None if run is None else read_json(store, VOCABULARY_PATH))
    vocabulary = assign_ids(vocabulary, known_ids)
    identity = RunIdentity(
        settings=label_settings(config),
        model_files=checkpoint.files,
        labels={label.id: {"name": label.name, "prompts": list(label.prompts)} for label in vocabulary.labels},
        input_uri=_plain_uri(config.input.uri),
    )
    known_shards = [] if run is None else read_snapshot(store)
    differences = [] if run is None else compare_identity(run.get("identity", {}), identity.to_json())
    if differences:
        return PreparedRun(
            config, checkpoint, vocabulary, store, identity, known_shards, (), (), True, tuple(differences)
        )
    shards, new, vanished = merge_snapshot(known_shards, list_shards(config.input, config.storage, known_shards))
    return PreparedRun(
        config, checkpoint, vocabulary, store, identity, shards, new, vanished, run is not None, differences=()
    )


def describe_model(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint as run.json and label files name it."""
    return {
        "checkpoint": checkpoint.name,
        "revision": checkpoint.revision,
        "model_type": checkpoint.model_type,
        "files": dict(checkpoint.files),
    }


def vocabulary_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of vocabulary.json: labels with stable ids, and the layer each came with."""
    content = vocabulary.to_json()
    labels = [{**label, "layer": FIRST_LAYER} for label in content["labels"]]
    return {**content, "labels": labels, "layers": [FIRST_LAYER]}


def _plain_uri(uri: str) -> str:
    """The same place in one spelling: no slash at the end; local paths absolute."""
    return uri.rstrip("/") if is_s3(uri) else str(Path(local_path(uri)).resolve())


def _known_label_ids(stored: Mapping[str, Any] | None) -> dict[str, int]:
    return {} if stored is None else {label["name"]: label["id"] for label in stored["labels"]}
