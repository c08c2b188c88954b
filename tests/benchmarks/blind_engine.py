"""A stand-in for the model that sees nothing: what is left is the pipeline.

Not in the benchmark's own file, because the actors must be able to import it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sam3lt_ray.config.schema import Config
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.pipeline.actor_plan import ActorResources
from sam3lt_ray.records import ImageDetections
from tests.standin import StandInEngine


class BlindEngine(StandInEngine):
    """Finds nothing, at once."""

    image_size = 8
    images_per_batch = 64

    def _one(self, image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> ImageDetections:
        presence = np.full(self.num_prompts, 0.1, np.float32)
        return ImageDetections(presence, np.zeros(self.num_prompts, bool), [])


def load_blind(
    checkpoint: Checkpoint, prompts: Sequence[str], config: Config, resources: ActorResources
) -> BlindEngine:
    """An engine factory for ``label_run``."""
    return BlindEngine(len(prompts))
