"""The state of a training run on disk: everything needed to continue as if it had never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from sam3lt_ray.demo.training.auxiliary import DenseHeads
from sam3lt_ray.demo.training.schedule import WeightAverage


@dataclass(slots=True)
class TrainingState:
    """A run in progress.

    Attributes:
        model: The model in training.
        heads: Its dense training heads.
        average: The average of its weights.
        optimizer: The optimizer of model and heads.
        generator: Source of the draws of records and prompts, on the training device.
        step: Steps done.
        elapsed_s: Seconds trained.
        scenes_rendered: Scenes taken from the training series; a continued run goes on behind them.
    """

    model: Sam3LiteTextModel
    heads: DenseHeads
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    elapsed_s: float = 0.0
    scenes_rendered: int = 0

    def save(self, path: Path) -> None:
        """Writes the state; a file half written never takes the place of a whole one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        content = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "scenes_rendered": self.scenes_rendered,
        }
        torch.save(content, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Takes up the state that `save` wrote for the same architecture."""
        content = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(content["model"])
        self.heads.load_state_dict(content["heads"])
        self.average.model.load_state_dict(content["average"])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(content["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # the loaded one is on the host
        self.generator.set_state(content["generator"])
        self.step = int(content["step"])
        self.elapsed_s = float(content["elapsed_s"])
        self.scenes_rendered = int(content["scenes_rendered"])


def scenes_rendered_before(path: Path) -> int:
    """How far into the training series a saved run has come; 0 where there is none."""
    if not path.exists():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True)["scenes_rendered"])
