"""The learning rate over a run, and the average of weights that is exported."""

from __future__ import annotations

import copy
import math

import torch
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from sam3lt_ray.demo.training.phrases import PhraseTable


def learning_rate_factor(step: int, share_done: float, warmup_steps: int, decay_from: float) -> float:
    """The share of the highest learning rate to use: up, level, then half a cosine down to nothing."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    if share_done <= decay_from:
        return warm
    late = min(1.0, (share_done - decay_from) / (1.0 - decay_from))
    return warm * 0.5 * (1.0 + math.cos(math.pi * late))


class WeightAverage:
    """An exponential moving average of a model's weights, as a model of its own."""

    def __init__(self, model: Sam3LiteTextModel, decay: float) -> None:
        self.model: Sam3LiteTextModel = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        self._pairs = (list(self.model.parameters()), list(model.parameters()))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the trained weights; faster in the first steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._pairs[0], [weights.detach() for weights in self._pairs[1]], 1.0 - decay)

    @torch.no_grad()
    def recalibrate(self, table: PhraseTable) -> None:
        """Sets the text encoder's batch-norm statistics to those of the averaged weights over all phrases.

        Every step normalises over the same table of phrases, so one pass gives exactly the statistics of training.
        """
        norms = [module for module in self.model.text_encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        self.model.get_text_features(input_ids=table.input_ids, attention_mask=table.mask.long())
        for norm, momentum in zip(norms, usual, strict=True):
            norm.eval()
            norm.momentum = momentum
