"""What the benchmark is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sam3lt_ray.benchmark.contenders import CONTENDERS, ContenderName
from sam3lt_ray.benchmark.workloads import Workload, full_workloads, make_prompts, quick_workloads
from sam3lt_ray.errors import UsageError

_MOST_PROMPTS: Final = 2000


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """Options of ``sam3lt bench``.

    Attributes:
        checkpoint: "full" or "tiny" (random weights), "demo", or a folder. None: full, or demo if quick.
        prompt_counts: Sizes of the vocabulary; empty: the usual ones.
        contenders: Who takes part; empty: all.
        device: "auto", "cuda" or "cpu"; quick with "auto" is the CPU.
        compile: Whether the compiled contender compiles; None: on a GPU only.
        budget_minutes: For all contenders together; what does not begin in time is left out.
        quick: The small form.
        num_images: For every contender and workload; None: as suits them.
    """

    checkpoint: str | None = None
    prompt_counts: tuple[int, ...] = ()
    contenders: tuple[str, ...] = ()
    device: Literal["auto", "cuda", "cpu"] = "auto"
    compile: bool | None = None
    budget_minutes: float = 5.0
    quick: bool = False
    num_images: int | None = None

    def check(self) -> None:
        """Refuses what cannot be done.

        Raises:
            UsageError: Says what is wrong and what would be right.
        """
        for count in self.prompt_counts:
            if not 1 <= count <= _MOST_PROMPTS:
                raise UsageError(f"--prompts {count}: expected a number from 1 to {_MOST_PROMPTS:,}.")
        if len(set(self.prompt_counts)) != len(self.prompt_counts):
            raise UsageError("--prompts names a number twice.")
        for name in self.contenders:
            if name not in CONTENDERS:
                raise UsageError(f"--contender {name!r} is not known; expected {', '.join(CONTENDERS)}.")
        if self.budget_minutes <= 0:
            raise UsageError("--budget-minutes must be more than 0.")
        if self.num_images is not None and self.num_images < 1:
            raise UsageError("--images must be at least 1.")
        make_prompts(max(self.prompt_counts, default=1))

    @property
    def chosen_checkpoint(self) -> str:
        """The checkpoint with its default filled in."""
        return self.checkpoint or ("demo" if self.quick else "full")

    @property
    def chosen_device(self) -> str:
        """The device to ask for."""
        return "cpu" if self.quick and self.device == "auto" else self.device

    @property
    def chosen_contenders(self) -> tuple[ContenderName, ...]:
        """In the order in which they run: what takes longest comes last and has what the others left over."""
        return tuple(name for name in CONTENDERS if not self.contenders or name in self.contenders)

    @property
    def workloads(self) -> list[Workload]:
        """What is measured."""
        return quick_workloads(self.prompt_counts) if self.quick else full_workloads(self.prompt_counts)
