"""COCO run lengths: dense masks and plain counts to the compressed string that is stored, and back.

A mask is written column by column as the lengths of its runs, background first ("counts"); COCO compresses the counts
to text. Everything here works on :class:`~sam3lt_ray.records.Rle` and hides pycocotools' untyped dictionaries.

Format: https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (rleToString, rleFrString).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from sam3lt_ray.records import Rle

BoolMask: TypeAlias = npt.NDArray[np.bool_]

_CHAR_ZERO = 48  # each character carries 6 bits, offset by "0"
_MORE = 0x20  # bit 5: the number goes on in the next character
_SIGN = 0x10  # bit 4 of a number's last character: it is negative


def encode_mask(mask_hw: BoolMask) -> Rle:
    """Compress a dense mask.

    Args:
        mask_hw: bool[H, W].

    Raises:
        ValueError: The array is not bool or not two-dimensional.
    """
    if mask_hw.ndim != 2 or mask_hw.dtype != np.bool_:
        raise ValueError(f"a mask must be bool[H, W], not {mask_hw.dtype}{list(mask_hw.shape)}")
    return _from_coco(coco_mask.encode(np.asfortranarray(mask_hw.view(np.uint8))))


def decode_mask(rle: Rle) -> BoolMask:
    """The dense mask, bool[H, W].

    Raises:
        ValueError: The counts are no COCO run lengths or do not fill the mask (pycocotools alone would return
            uninitialised memory for counts that are too short).
    """
    counts = uncompress_counts(rle)
    height, width = rle.size
    is_mask = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_mask, counts).reshape(width, height).T


def compress_counts(counts: npt.NDArray[np.integer[Any]], size_hw: tuple[int, int]) -> Rle:
    """Compress run lengths.

    Args:
        counts: Lengths of the runs, column by column, background first (0 when the first pixel is set).
        size_hw: (height, width) in pixels.

    Raises:
        ValueError: The runs do not add up to height x width.
    """
    total = int(counts.sum(dtype=np.int64))
    height, width = size_hw
    if total != height * width:
        raise ValueError(f"run lengths add up to {total} pixels, but {height} x {width} is {height * width}")
    plain = {"size": [height, width], "counts": counts.astype(np.uint32)}
    return _from_coco(coco_mask.frPyObjects(plain, height, width))


def uncompress_counts(rle: Rle) -> npt.NDArray[np.int64]:
    """Lengths of the runs, column by column, background first; int64[num_runs].

    Raises:
        ValueError: The text is no COCO run lengths, or the runs do not add up to the mask's size.
    """
    chars = np.frombuffer(rle.counts.encode(), dtype=np.uint8).astype(np.int64) - _CHAR_ZERO
    counts = _integrate(_split_numbers(chars, rle))
    height, width = rle.size
    if (counts < 0).any() or int(counts.sum()) != height * width:
        raise ValueError(f"run lengths do not fill a mask of {height} x {width} pixels: {_excerpt(rle)}")
    return counts


def area(rle: Rle) -> int:
    """Number of mask pixels."""
    return int(coco_mask.area(_coco_object(rle)))


def areas(rles: Sequence[Rle]) -> npt.NDArray[np.int64]:
    """Number of pixels of each mask, int64[N]."""
    return np.asarray(coco_mask.area([_coco_object(rle) for rle in rles]), dtype=np.int64)


def box_xywh(rle: Rle) -> tuple[float, float, float, float]:
    """Smallest box around the mask (left, top, width, height) in pixels; all 0 for an empty mask."""
    x, y, width, height = coco_mask.toBbox(_coco_object(rle)).tolist()
    return x, y, width, height


def boxes_xywh(rles: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """Smallest box around each mask, float64[N, 4] in pixels."""
    boxes = coco_mask.toBbox([_coco_object(rle) for rle in rles])
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def iou(rles: Sequence[Rle], others: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """Intersection over union of every mask with every other, float64[len(rles), len(others)].

    Two empty masks have an IoU of 0.

    Raises:
        ValueError: The masks differ in size.
    """
    sizes = {rle.size for rle in rles} | {rle.size for rle in others}
    if len(sizes) > 1:
        raise ValueError(f"masks of different sizes have no IoU: {sorted(sizes)}")
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    matrix = coco_mask.iou(
        [_coco_object(rle) for rle in rles], [_coco_object(rle) for rle in others], [0] * len(others)
    )
    return np.asarray(matrix, dtype=np.float64)


def to_coco(rle: Rle) -> dict[str, object]:
    """The JSON form used in COCO files: ``{"size": [height, width], "counts": text}``."""
    return {"size": list(rle.size), "counts": rle.counts}


def _coco_object(rle: Rle) -> dict[str, object]:
    return {"size": list(rle.size), "counts": rle.counts.encode()}


def _from_coco(value: dict[str, Any]) -> Rle:
    height, width = value["size"]
    return Rle((int(height), int(width)), cast(bytes, value["counts"]).decode("ascii"))


def _split_numbers(chars: npt.NDArray[np.int64], rle: Rle) -> npt.NDArray[np.int64]:
    """The signed numbers that the characters spell: 5 bits each, lowest first, sign-extended from the last one."""
    if ((chars < 0) | (chars > 0x3F)).any():
        raise ValueError(f"not COCO run lengths: {_excerpt(rle)}")
    is_last = (chars & _MORE) == 0
    if len(chars) == 0 or not is_last[-1]:
        raise ValueError(f"COCO run lengths end in the middle of a number: {_excerpt(rle)}")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if int(lengths.max()) > 7:  # 35 bits; more cannot be a 32-bit run length
        raise ValueError(f"COCO run lengths hold a number that is too large: {_excerpt(rle)}")
    shifts = 5 * (np.arange(len(chars)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((chars & 0x1F) << shifts, starts)
    negative = (chars[ends] & _SIGN) != 0
    return np.where(negative, numbers - (np.int64(1) << (5 * lengths)), numbers)


def _integrate(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """From the fourth on, a number is the difference to the run two before it (so to the last run of its kind)."""
    counts = numbers.copy()
    counts[1::2] = np.cumsum(numbers[1::2])
    counts[2::2] = np.cumsum(numbers[2::2])
    return counts


def _excerpt(rle: Rle) -> str:
    return repr(rle.counts if len(rle.counts) <= 40 else rle.counts[:40] + "...")
