"""The one place that reaches into the engine: where its answers are forced and where its parts are timed.

The engine keeps its parts as plain attributes. Wrapped are: how scores are computed (``_grounding._scoring``), how mask
logits are computed (``_mask_head.mask_logits``), and for timing the methods in ``_PARTS``. A method that is not there
any more is left out of the timing and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import torch

from sam3lt_ray.benchmark.answers import ForcedAnswers
from sam3lt_ray.benchmark.part_clock import Part, PartClock
from sam3lt_ray.benchmark.workloads import INSTANCES
from sam3lt_ray.engine.segmenter import Segmenter

_PARTS: Final[tuple[tuple[Part, str, str], ...]] = (
    ("vision", "_vision", "encode"),
    ("encoder and decoder", "_grounding", "start"),
    ("encoder and decoder", "_grounding", "ground"),
    ("mask head", "_vision", "fine_features"),
    ("mask head", "_mask_head", "image_parts"),
    ("mask head", "_mask_head", "pixel_features"),
    ("mask head", "_mask_head", "mask_logits"),
)
_RUN_LENGTHS_MODULE: Final = "sam3lt_ray.engine.image_batch"
_RUN_LENGTHS: Final = "encode_masks"  # as that module imports it


class EngineSeam:
    """Forces the answers of a loaded segmenter; the answers can be exchanged between workloads."""

    def __init__(self, segmenter: Segmenter, answers: ForcedAnswers) -> None:
        self._parts: dict[str, Any] = {name: getattr(segmenter, name, None) for _, name, _ in _PARTS}
        self._answers = answers
        self._scores = answers.scores.clone()
        grounding, mask_head = self._parts["_grounding"], self._parts["_mask_head"]
        grounding._scoring = self._forced_scores(grounding._scoring)
        mask_head.mask_logits = self._forced_masks(mask_head.mask_logits)

    def force(self, answers: ForcedAnswers) -> None:
        """Other answers for the same vocabulary; in place, so that a captured graph sees them too."""
        self._scores.copy_(answers.scores)

    def _forced_scores(self, compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def forced(queries: torch.Tensor, presence: torch.Tensor, prompts: Any) -> torch.Tensor:
            computed = compute(queries, presence, prompts)
            some = self._scores[prompts]
            images, rest = divmod(computed.shape[0], some.shape[0])
            if rest:
                raise RuntimeError(f"the engine scored {computed.shape[0]} pairs for {some.shape[0]} prompts")
            return some.repeat_interleave(images, dim=0).view_as(computed) + 0 * computed

        return forced

    def _forced_masks(self, compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def forced(*arguments: Any, **options: Any) -> torch.Tensor:
            computed = compute(*arguments, **options)
            shape = computed.shape
            rows = shape[:-2].numel()
            if rows % INSTANCES:
                raise RuntimeError(f"the engine made {rows} masks; expected {INSTANCES} for every present pair")
            return self._answers.mask_logits(computed.reshape(-1, INSTANCES, *shape[-2:])).view(shape)

        return forced

    @contextmanager
    def timed(self, clock: PartClock) -> Iterator[list[str]]:
        """While it holds, the parts are timed; gives the names of those that could not be found."""
        targets: list[tuple[Part, Any, str]] = [(part, self._parts[owner], name) for part, owner, name in _PARTS]
        targets.append(("run lengths", _run_lengths_module(), _RUN_LENGTHS))
        missing = [name for _, owner, name in targets if not hasattr(owner, name)]
        restore: list[tuple[Any, str, Any]] = []
        try:
            for part, owner, name in targets:
                if hasattr(owner, name):
                    restore.append((owner, name, vars(owner).get(name)))
                    setattr(owner, name, clock.wrap(part, getattr(owner, name)))
            yield missing
        finally:
            for owner, name, before in reversed(restore):
                if before is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)


def _run_lengths_module() -> Any:
    try:
        return import_module(_RUN_LENGTHS_MODULE)
    except ModuleNotFoundError:
        return None
