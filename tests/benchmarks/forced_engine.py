"""The real engine with the forced answers of ``sam3lt bench``, for runs that measure time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sam3lt_ray.benchmark.answers import ForcedAnswers
from sam3lt_ray.benchmark.forcing import EngineSeam
from sam3lt_ray.benchmark.workloads import Workload, usual_present
from sam3lt_ray.config.schema import Config
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.segmenter import Segmenter
from sam3lt_ray.pipeline.engine_factory import segmenter_factory

if TYPE_CHECKING:
    from sam3lt_ray.pipeline.actor_plan import ActorResources
    from sam3lt_ray.stages.label import Engine


def forced_engine(checkpoint: Checkpoint, prompts: Sequence[str], config: Config, resources: ActorResources) -> Engine:
    """The real engine, with forced answers: an engine factory for ``label_run``."""
    segmenter = segmenter_factory(checkpoint, prompts, config, resources)
    assert isinstance(segmenter, Segmenter)
    workload = Workload(len(prompts), usual_present(len(prompts)))
    EngineSeam(segmenter, ForcedAnswers(workload, segmenter.num_queries, torch.device(segmenter.device)))
    return segmenter
