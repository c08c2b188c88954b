"""Who is compared, and what each of them has to offer to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

from sam3lt_ray.benchmark.workloads import ImageSet, Workload

ContenderName = Literal["documented", "sam3lt", "compiled"]
CONTENDERS: Final[tuple[ContenderName, ...]] = get_args(ContenderName)

DESCRIPTIONS: Final[dict[ContenderName, str]] = {
    "documented": (
        "the documented loop: for each (image, prompt) decode, resize, the model's forward in fp32 (torch's defaults), "
        "its post-processing, pycocotools"
    ),
    "compiled": (
        "transformers' modules used with care: bf16 on a GPU, text once, vision once per image, 32 prompts at a time "
        "through torch.compile, masks left out where no prompt of a batch is present, post-processing of present "
        "prompts only, pycocotools in a thread, JPEGs decoded ahead"
    ),
    "sam3lt": "this package: ImageLabeler.label_unit, as in a run",
}

NUM_FILES: Final[dict[ImageSet, int]] = {"one size": 8, "mix": 6}

# Image number -> prompt -> COCO compressed run lengths with their size, one for each instance.
Found = list[dict[int, list[dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class ContenderSettings:
    """What all contenders are given.

    Attributes:
        checkpoint: Folder of the checkpoint, or "demo".
        device: "cpu" or "cuda".
        precision: "bf16" or "fp32"; the documented loop is always fp32.
        compile: Whether the compiled contender compiles.
        decode_threads: Threads that decode JPEGs ahead of the device.
    """

    checkpoint: str
    device: str
    precision: str
    compile: bool
    decode_threads: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One time through the images.

    Attributes:
        s_per_image: Seconds per image; for all prompts, extrapolated where only some were asked.
        found: What was found in each image.
    """

    s_per_image: float
    found: Found


class Contender(Protocol):
    """One way of labeling images; lives in a process of its own."""

    def prepare(self, workload: Workload) -> float:
        """Takes a vocabulary; the model too, when called first.

        Returns:
            Seconds that a fresh process needs to come so far, without imports.
        """
        ...

    def first_call(self, images: Sequence[bytes]) -> None:
        """Whatever happens only once: compilation, memory, caches."""
        ...

    def label(self, images: Sequence[bytes]) -> Pass:
        """Labels JPEG files; returns when everything is done."""
        ...

    def profile(self, images: Sequence[bytes]) -> dict[str, float] | None:
        """Milliseconds by part over all these images, or None; a pass of its own, for it disturbs."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a reader must know about how the workload was done."""
        ...


def num_images(name: ContenderName, workload: Workload, *, quick: bool) -> int:
    """How many images a contender labels in one pass: fewer where they take long.

    What begins and ends a pass weighs alike on all but the documented loop, which does nothing ahead.
    """
    if quick:
        return 1 if name == "documented" else 4 if workload.num_prompts == 1 else 2
    if workload.images == "mix":  # whole rounds of the six sizes
        return 6 if name == "documented" else 24
    if name == "documented":
        return 2
    if workload.num_prompts > 500:
        return 16
    return 64 if workload.num_prompts <= 10 else 24 if workload.num_prompts <= 100 else 8


def read_images(folder: Path, workload: Workload, count: int) -> list[bytes]:
    """The JPEG files of a workload, into memory."""
    return [image_path(folder, workload, index).read_bytes() for index in range(count)]


def image_path(folder: Path, workload: Workload, index: int) -> Path:
    """Where an image of a workload lies; a pass over many images sees the same files again."""
    return folder / f"{workload.images.replace(' ', '-')}-{index % NUM_FILES[workload.images]:03d}.jpg"
