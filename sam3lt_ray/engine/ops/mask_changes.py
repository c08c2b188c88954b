"""Where masks at the image's size change from pixel to pixel, read column by column as COCO's run lengths are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from sam3lt_ray.engine.ops.dispatch import has_triton
from sam3lt_ray.engine.transfers import HostCopy, to_host


class MaskChanges:
    """Positions on their way to the host.

    Args:
        make_dense: Makes the probabilities at the image's size, float32 [n, height, width], contiguous; called again
            where there are more changes than there was room for.
        threshold: A pixel belongs to a mask if its probability is larger.
        capacity: Room for the positions of all masks together.
    """

    def __init__(self, make_dense: Callable[[], torch.Tensor], threshold: float, capacity: int) -> None:
        self._make_dense, self._threshold, self._capacity = make_dense, threshold, capacity
        self._ends, self._positions = self._launch(capacity)

    def lacks_room(self) -> bool:
        """Waits until the changes are counted; whether there are more than there was room for."""
        return bool(self._ends.wait()[-1] > self._capacity)

    def make_room(self) -> None:
        """Has them found again where room was lacking, now with enough of it."""
        if self.lacks_room():
            capacity = int(self._ends.wait()[-1])
            self._ends, self._positions = self._launch(capacity)
            self._capacity = capacity

    def wait(self) -> list[npt.NDArray[np.int32]]:
        """For each mask the rising positions ``x * height + y`` of pixels unlike the one before them."""
        self.make_room()
        ends, positions = self._ends.wait(), self._positions.wait()
        return [positions[first:last] for first, last in pairwise([0, *ends.tolist()])]

    def _launch(self, capacity: int) -> tuple[HostCopy, HostCopy]:
        dense = self._make_dense()
        if has_triton(dense.device):
            from sam3lt_ray.engine.kernels.mask_changes import find_changes

            ends, positions = find_changes(dense, self._threshold, capacity)
        else:
            ends, positions = find_changes_plainly(dense, self._threshold)
            self._capacity = len(positions)  # as many as there are
        return to_host(ends), to_host(positions)


def find_changes_plainly(dense: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel computes, without its limit: see :mod:`sam3lt_ray.engine.kernels.mask_changes`."""
    num_masks, height, width = dense.shape
    # Compared as the pixels lie, and only the few changes are put in the order of columns: on a CPU a third of the time
    # of turning a large mask round.
    mask = dense > threshold
    changed = torch.empty_like(mask)
    torch.ne(mask[:, 1:], mask[:, :-1], out=changed[:, 1:])
    torch.ne(mask[:, 0, 1:], mask[:, -1, :-1], out=changed[:, 0, 1:])
    changed[:, 0, 0] = mask[:, 0, 0]  # in front of the first pixel is background
    number, y, x = changed.nonzero().unbind(1)
    positions = ((number * width + x) * height + y).sort().values
    ends = torch.searchsorted(positions, (height * width) * torch.arange(1, num_masks + 1, device=dense.device))
    return ends, (positions % (height * width)).to(torch.int32)
