"""Makes the engine inside an actor's process."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from sam3lt_ray.config.schema import Config
from sam3lt_ray.engine.checkpoint import Checkpoint, resolve_checkpoint
from sam3lt_ray.errors import CheckpointError
from sam3lt_ray.pipeline.actor_plan import ActorResources
from sam3lt_ray.stages.label import Engine


class EngineFactory(Protocol):
    """Anything that makes an engine; pickled to the actors and called there once per process."""

    def __call__(
        self, checkpoint: Checkpoint, prompts: Sequence[str], config: Config, resources: ActorResources
    ) -> Engine:
        """Load the checkpoint and encode the prompts."""
        ...


def segmenter_factory(
    checkpoint: Checkpoint, prompts: Sequence[str], config: Config, resources: ActorResources
) -> Engine:
    """The real engine. Imported here, so that the driver of a cluster job needs no torch in its memory.

    Raises:
        CheckpointError: This machine has other files under the checkpoint's name than the driver has.
    """
    from sam3lt_ray.engine.segmenter import EngineSettings, Segmenter

    local = resolve_checkpoint(config.model.checkpoint, checkpoint.revision)
    if local.files != checkpoint.files:
        different = sorted(
            name
            for name in local.files.keys() | checkpoint.files.keys()
            if local.files.get(name) != checkpoint.files.get(name)
        )
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} in {local.folder} on {socket.gethostname()} differs from the one the "
            f"driver checked: {', '.join(different)}. All machines must see the same files; pin model.revision."
        )
    settings = EngineSettings(
        score_floor=config.labeling.score_floor,
        mask_threshold=config.labeling.mask_threshold,
        device=resources.device,
        precision=config.compute.precision,
        images_per_batch=config.compute.images_per_batch,
        prompts_per_batch=config.compute.prompts_per_batch,
        num_threads=resources.engine_threads,
    )
    return Segmenter.load(local, prompts, settings)
