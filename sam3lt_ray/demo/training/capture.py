"""Replaying a training step as one CUDA graph, so that the GPU never waits for Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch

from sam3lt_ray.demo.training.batches import Batch

StepFunction = Callable[[Batch], dict[str, torch.Tensor]]


class CapturedStep:
    """A step function, recorded once and replayed on new batches of the same shapes.

    The function must not copy to the host, and its gradients must be unset before each call: the recording then writes
    them anew instead of adding to them.
    """

    def __init__(self, step: StepFunction, example: Batch, warmup_steps: int = 3) -> None:
        self._batch = Batch(**{field.name: getattr(example, field.name).clone() for field in fields(example)})
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles, and sets up what libraries create at their first call
            for _ in range(warmup_steps):
                step(self._batch)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._terms = step(self._batch)

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Runs one step; the result is overwritten by the next one."""
        for field in fields(batch):
            getattr(self._batch, field.name).copy_(getattr(batch, field.name))
        self._graph.replay()
        return self._terms
