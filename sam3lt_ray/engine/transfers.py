"""Copies between host and device that nobody waits for until the values are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class HostCopy:
    """A tensor on its way to the host; made by :func:`to_host`."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if not tensor.is_cuda:
            self._host = tensor
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def wait(self) -> npt.NDArray[Any]:
        """The values, once everything that was asked of the device before the copy is done."""
        if self._event is not None:
            self._event.synchronize()
        values: npt.NDArray[Any] = self._host.numpy()
        return values


def to_host(tensor: torch.Tensor) -> HostCopy:
    """Starts copying; the device goes on with what is asked of it next."""
    return HostCopy(tensor)


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copies an array without waiting for what the device has still to do, as a plain copy would."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
