"""The Triton kernels compute what their plain forms compute; here interpreted, in float32, to its precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

if torch.cuda.is_available():
    pytest.skip("tests/gpu runs the kernels for real", allow_module_level=True)
pytest.importorskip("triton")

from tests.kernel_cases import CASES, Maker, assert_same_changes, relative_error

MAKER = Maker(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_kernel_is_its_plain_form(name: str) -> None:
    with torch.inference_mode(), np.errstate(all="ignore"):  # the interpreter computes in NumPy
        found, expected = CASES[name](MAKER)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.isfinite(one).all()
        assert relative_error(one, other) < 4e-6  # where logits are about 150, float32 has no more


def test_products_of_halves_are_nearly_float32() -> None:
    """In float16, which NumPy has: alone it would leave an error of 2e-4."""
    with torch.inference_mode(), np.errstate(all="ignore"):
        found, expected = CASES["box_deltas"](Maker(torch.device("cpu"), torch.float16))
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < 2e-6


@settings(max_examples=25, deadline=None)
@given(
    mask=hnp.arrays(np.bool_, st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 40))),
)
def test_changes_of_any_mask(mask: np.ndarray) -> None:
    assert_same_changes(torch.from_numpy(mask.astype(np.float32)), 0.5)


@pytest.mark.parametrize("shape", [(2, 64, 32), (1, 65, 33), (3, 1, 40), (2, 130, 1)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_changes_of_empty_and_full_masks(shape: tuple[int, int, int], value: float) -> None:
    assert_same_changes(torch.full(shape, value), 0.5)
