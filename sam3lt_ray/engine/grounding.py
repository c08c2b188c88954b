"""Prompts against encoded images: encoder, decoder and scores for a batch of pairs at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sam3lt_ray.engine.detr_decoder import DetrDecoder
from sam3lt_ray.engine.detr_encoder import DetrEncoder
from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.pairs import Pairs
from sam3lt_ray.engine.scoring import Scoring
from sam3lt_ray.engine.text_bank import TextFeatures


@dataclass(frozen=True, slots=True)
class GroundedPairs:
    """What is known of n (image, prompt) pairs.

    Attributes:
        memory: Image tokens that have met the prompt, [n, N, C].
        queries: Candidates' features, float32 [n, Q, C].
        boxes_xyxy: Shares of the image, float32 [n, Q, 4].
        scores: float32 [n, Q].
        presence: float32 [n].
    """

    memory: torch.Tensor
    queries: torch.Tensor
    boxes_xyxy: torch.Tensor
    scores: torch.Tensor
    presence: torch.Tensor


class Grounding:
    """The DETR part of the model with the vocabulary folded in.

    Attributes:
        num_queries: Candidates per pair.
        num_heads: Of the attention to words.

    Args:
        model: The transformers model.
        text: The vocabulary.
        positions: Position encoding of image tokens, float32 [N, C].
        grid_hw: Rows and columns of image tokens.
        placement: Where to compute.
    """

    def __init__(
        self, model: Any, text: TextFeatures, positions: torch.Tensor, grid_hw: tuple[int, int], placement: Placement
    ) -> None:
        model.dot_product_scoring.to(placement.device)
        self._encoder = DetrEncoder(model.detr_encoder, text, positions, placement)
        self._decoder = DetrDecoder(model.detr_decoder, text, grid_hw, placement)
        self._scoring = Scoring(model.dot_product_scoring, text, placement)
        self.num_queries = self._decoder.num_queries
        self.num_heads = self._encoder.layers[0].text.num_heads

    def start(self, tokens: torch.Tensor) -> torch.Tensor:
        """What is the same for every prompt: once per image. [B, N, C] to [B, N, C]."""
        return self._encoder.start(tokens)

    def ground(self, started: torch.Tensor, pairs: Pairs) -> GroundedPairs:
        """Grounds prompts in the images of :meth:`start`."""
        memory = self._encoder.ground(started, pairs)
        candidates = self._decoder.find(memory, pairs)
        scores = self._scoring(candidates.queries, candidates.presence, pairs.prompts)
        return GroundedPairs(memory.tokens, candidates.queries, candidates.boxes_xyxy, scores, candidates.presence)
