"""What a failure says of the device, and letting go of what it holds."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from sam3lt_ray.errors import DeviceError

# What torch, its libraries and Triton's launcher write when the driver refuses something.
_DEVICE_WORDS: Final = ("CUDA error", "Triton Error [CUDA]", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS")
# Torch 2.6, the oldest that we take, has none of its own for that.
_ACCELERATOR_ERRORS: Final = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
_MEMORY_WORDS: Final = ("out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less at once may fit; such an error leaves the device as it was."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY_WORDS)


def device_failure(error: BaseException, device: str) -> DeviceError | None:
    """The error to raise instead, where it is the device that failed and not what was asked of it.

    After an illegal address or a failed assertion every further call in the process fails, for whichever image.

    Args:
        error: What was raised.
        device: Its name, for the message.
    """
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return None
    if not isinstance(error, _ACCELERATOR_ERRORS) and not any(words in str(error) for words in _DEVICE_WORDS):
        return None
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DeviceError(
        f"Device {device} failed while it labeled: {first_line} Nothing can be computed on it in this process any "
        "more; a new process that loads the model again can go on."
    )


def let_go(error: BaseException) -> None:
    """Empties the frames that an error has come through: their tensors must not outlive the attempt that failed."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


@contextmanager
def failing_clearly(device: str) -> Iterator[None]:
    """What is raised inside keeps no tensors alive, and says when it is the device that has failed.

    Args:
        device: Its name.

    Raises:
        DeviceError: Instead of what torch raised.
    """
    try:
        yield
    except Exception as error:
        let_go(error)
        failure = device_failure(error, device)
        if failure is None:
            raise
        raise failure from error
