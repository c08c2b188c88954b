"""Dense heads that exist only during training: they make the features useful before the queries are."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from sam3lt_ray.demo.palette import COLOUR_NAMES, SHAPE_NAMES

_NOTHING = 0  # class 0 of both token classifiers
_MIN_COVERAGE = 0.4


class DenseHeads(nn.Module):
    """Linear read-outs of single image tokens.

    On the vision encoder's coarsest map: which colour and which shape a token shows. On the DETR encoder's output:
    whether a token belongs to something that the prompt names. The first teaches the vision transformer within some
    hundred steps; the second teaches it to listen to the text.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, len(COLOUR_NAMES) + 1)
        self.shape = nn.Linear(width, len(SHAPE_NAMES) + 1)
        self.grounding = nn.Linear(width, 1)

    def token_loss(self, tokens: torch.Tensor, cells: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of colour and shape.

        Args:
            tokens: Vision features, [B, N, C].
            cells: How much of a token's patch each object covers, float32 [B, K, N].
            classes: Object classes, int64 [B, K].
        """
        most, owner = cells.max(dim=1)
        object_class = classes.gather(1, owner)
        empty = most < _MIN_COVERAGE
        colour = torch.where(empty, _NOTHING, object_class // len(SHAPE_NAMES) + 1)
        shape = torch.where(empty, _NOTHING, object_class % len(SHAPE_NAMES) + 1)
        colour_loss = functional.cross_entropy(self.colour(tokens).float().flatten(0, 1), colour.flatten())
        shape_loss = functional.cross_entropy(self.shape(tokens).float().flatten(0, 1), shape.flatten())
        return colour_loss + shape_loss

    def grounding_loss(self, encoded: torch.Tensor, wanted_cells: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy plus dice of 'this token shows what the prompt names'.

        Args:
            encoded: DETR encoder output, [n, N, C].
            wanted_cells: Coverage of the tokens by the objects that the prompt names, float32 [n, N].
        """
        logits = self.grounding(encoded).float().squeeze(-1)
        entropy = functional.binary_cross_entropy_with_logits(logits, wanted_cells)
        shown = logits.sigmoid()
        dice = 1.0 - (2.0 * (shown * wanted_cells).sum() + 1.0) / (shown.sum() + wanted_cells.sum() + 1.0)
        total: torch.Tensor = 4.0 * entropy + dice
        return total
