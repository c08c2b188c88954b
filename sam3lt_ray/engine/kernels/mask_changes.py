"""Where masks, read column by column, change: counted first, then written; nothing waits for the host."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_ROWS, _COLUMNS = 64, 32


@triton.jit(do_not_specialize=["height", "width", "segments", "capacity"])
def _find_changes(
    dense_ptr, counts_ptr, out_ptr, threshold, height, width, segments, capacity,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    """A program looks at ROWS x COLUMNS pixels of one mask. Counts are [mask, column, segment of rows]."""
    mask = tl.program_id(2).to(tl.int64)
    segment = tl.program_id(1)
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    y = segment * ROWS + tl.arange(0, ROWS)
    valid = (y < height)[:, None] & (x < width)[None, :]
    dense_ptr += mask * height * width
    here = tl.load(dense_ptr + y.to(tl.int64)[:, None] * width + x[None, :], mask=valid, other=0.0) > threshold
    # The pixel before: the one above, or the last one of the column to the left; nothing before the first.
    above_y = tl.where(y > 0, y - 1, height - 1).to(tl.int64)
    above_x = x[None, :] - (y == 0).to(tl.int32)[:, None]
    exists = valid & (above_x >= 0)
    before = tl.load(dense_ptr + above_y[:, None] * width + above_x, mask=exists, other=0.0)
    changed = ((here != ((before > threshold) & exists)) & valid).to(tl.int32)
    counts_at = counts_ptr + (mask * width + x) * segments + segment
    if WRITE:
        first = tl.load(counts_at, mask=x < width, other=0)
        at = first[None, :] + tl.cumsum(changed, 0) - 1
        position = x[None, :] * height + y[:, None]
        tl.store(out_ptr + at, position, mask=(changed > 0) & (at < capacity))
    else:
        tl.store(counts_at, tl.sum(changed, 0), mask=x < width)


def find_changes(dense: torch.Tensor, threshold: float, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of all changes of several masks.

    Args:
        dense: float32 [n, height, width], contiguous.
        threshold: A pixel belongs to the mask if it is larger.
        capacity: Room for positions of all masks together; what does not fit is counted but not written.

    Returns:
        (ends, positions): int64 [n], how many changes the masks have, added up to and with each; int32 [capacity],
        mask after mask, ``x * height + y`` in rising order.
    """
    num_masks, height, width = dense.shape
    segments = triton.cdiv(height, _ROWS)
    counts = torch.empty(num_masks * width * segments, dtype=torch.int32, device=dense.device)
    positions = torch.empty(capacity, dtype=torch.int32, device=dense.device)
    grid = (triton.cdiv(width, _COLUMNS), segments, num_masks)
    _find_changes[grid](
        dense, counts, positions, threshold, height, width, segments, capacity, _ROWS, _COLUMNS, False, num_warps=4
    )
    ends = counts.cumsum(0)
    starts = ends - counts
    _find_changes[grid](
        dense, starts, positions, threshold, height, width, segments, capacity, _ROWS, _COLUMNS, True, num_warps=4
    )
    return ends.view(num_masks, -1)[:, -1].contiguous(), positions
