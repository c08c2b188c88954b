"""What is measured: how many prompts, how many of them are in the images, and which images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, Final, Literal

ImageSet = Literal["one size", "mix"]

INSTANCES: Final = 3  # per present (image, prompt) pair

# Shares as they are in photographs: the more labels are asked, the fewer of them are there.
_USUAL_SHARE: Final = ((1, 1.0), (10, 0.3), (80, 0.04), (365, 0.02), (1000, 0.01))

_THINGS_TEXT: Final = """
person bicycle car motorcycle bus train truck boat bird cat dog horse sheep cow elephant bear zebra giraffe backpack
umbrella handbag tie suitcase ball kite bottle glass cup fork knife spoon bowl banana apple sandwich orange chair couch
bed table
"""
_KINDS_TEXT: Final = """
red green blue yellow white black striped wooden old small large broken shiny dirty wet folded empty round tall painted
open metal plastic paper dark
"""
_THINGS: Final = tuple(_THINGS_TEXT.split())
_KINDS: Final = tuple(_KINDS_TEXT.split())


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the comparison.

    Attributes:
        num_prompts: Size of the vocabulary, V.
        num_present: How many of the prompts have instances; the same ones in every image.
        images: Images of one size (1280 x 960), or a mix of sizes.
    """

    num_prompts: int
    num_present: int
    images: ImageSet = "one size"

    @property
    def name(self) -> str:
        """For people, for example "80 prompts, 3 present, mix"."""
        words = f"{self.num_prompts} prompt{'s' if self.num_prompts != 1 else ''}, {self.num_present} present"
        return words if self.images == "one size" else f"{words}, {self.images} of sizes"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def present_prompts(num_prompts: int, num_present: int) -> list[int]:
    """Which prompts are present: evenly spread over the vocabulary.

    With ``share = num_present / num_prompts`` prompt p is present where floor((p + 1) share) > floor(p share).
    """
    return [
        prompt
        for prompt in range(num_prompts)
        if (prompt + 1) * num_present // num_prompts > prompt * num_present // num_prompts
    ]


def usual_present(num_prompts: int) -> int:
    """How many of so many prompts are in an ordinary image: at least one."""
    share = next((share for most, share in _USUAL_SHARE if num_prompts <= most), _USUAL_SHARE[-1][1])
    return max(1, round(num_prompts * share))


def full_workloads(prompt_counts: Sequence[int] = ()) -> list[Workload]:
    """The comparison on a GPU, what matters most first: a contender whose time is used up leaves the rest out.

    Args:
        prompt_counts: Only these sizes of the vocabulary; none: all of 80, 365, 1, 10 and 1000.
    """
    workloads = []
    for count in prompt_counts or (80, 365, 1, 10, 1000):
        workloads.append(Workload(count, usual_present(count)))
        if count == 80:  # to show the slope, and what other sizes do
            workloads += [Workload(80, 0), Workload(80, 80), Workload(80, usual_present(80), "mix")]
    return workloads


def quick_workloads(prompt_counts: Sequence[int] = ()) -> list[Workload]:
    """The small form for a CPU."""
    return [Workload(count, 1 if count == 1 else max(1, count // 10)) for count in prompt_counts or (1, 20)]


def make_prompts(count: int) -> list[str]:
    """So many different prompts of one to three words.

    Raises:
        ValueError: More than there are.
    """
    one = _THINGS
    two = [f"{kind} {thing}" for kind in _KINDS for thing in _THINGS]
    three = [
        f"{kind} {other} {thing}"
        for kind, other in zip(_KINDS, _KINDS[7:] + _KINDS[:7], strict=True)
        for thing in _THINGS
    ]
    mixed = [prompt for row in zip_longest(one, two, three) for prompt in row if prompt is not None]
    if count > len(mixed):
        raise ValueError(f"{count} prompts were asked for; there are {len(mixed)}")
    return mixed[:count]


def words() -> list[str]:
    """Every word that occurs in :func:`make_prompts`."""
    return sorted({*_THINGS, *_KINDS})
