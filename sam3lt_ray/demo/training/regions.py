"""Compiling the hot parts of the forward pass, each on its own.

One graph of the whole step took three and a half minutes to compile. Its repeated layers are compiled once here and
used many times; what is left between them costs nothing once the step is captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_enabled: ContextVar[bool] = ContextVar("compiled_regions", default=False)


def region(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Marks a function that is compiled inside of `compiled_regions`, and runs as it stands elsewhere."""
    compiled = torch.compile(function, fullgraph=True, dynamic=False)

    @wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return compiled(*args, **kwargs) if _enabled.get() else function(*args, **kwargs)

    return call


@contextmanager
def compiled_regions(wanted: bool) -> Iterator[None]:
    """Inside of it, regions run compiled if `wanted`."""
    token = _enabled.set(wanted)
    try:
        yield
    finally:
        _enabled.reset(token)
