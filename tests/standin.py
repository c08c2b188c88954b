"""A stand-in for the model that takes a constant time: for tests of everything around it.

Its answers depend on the image's pixels alone, so that two runs can be compared to the last character.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sam3lt_ray.config.schema import Config
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.errors import DeviceError
from sam3lt_ray.masks.rle import encode_mask
from sam3lt_ray.records import Detection, EnginePart, ImageDetections

if TYPE_CHECKING:
    from sam3lt_ray.pipeline.actor_plan import ActorResources
    from sam3lt_ray.pipeline.engine_factory import EngineFactory
    from sam3lt_ray.stages.label import Engine

KILLER_RED = 250  # an image whose top left pixel is this red kills the process that labels it
HANGER_RED = 240  # ... and one that is this red hangs it
GLUTTON_RED = 220  # ... and one that is this red really fills memory, until somebody kills the process or 6 GB are full
BREAKER_RED = 210  # ... and one that is this red breaks the device for good
HOG_RED = 230  # ... and one that is this red asks for more memory than the process may have (RLIMIT_AS)


class StandInEngine:
    """Finds, for every prompt, a rectangle whose place depends on the image's mean colour."""

    image_size = 64
    images_per_batch = 4

    def __init__(
        self, num_prompts: int, seconds_per_image: float = 0.0, labeled: str | None = None, hold: str | None = None
    ) -> None:
        self.num_prompts = num_prompts
        self.seconds_per_image = seconds_per_image
        self.labeled = labeled  # this file grows by a byte for each image
        self.hold = None if hold is None else HoldPoint(Path(hold))
        self.part_seconds: dict[EnginePart, float] = {"vision": 0.0, "prompts": 0.0, "masks": 0.0, "runs": 0.0}
        self._lock = threading.Lock()

    memory_halvings = 0

    def submit(
        self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        start = time.perf_counter()
        if self.hold is not None:
            self.hold.reach()
        found = [self._one(image, size) for image, size in zip(pixels, sizes_hw, strict=True)]
        time.sleep(self.seconds_per_image * len(pixels))
        if self.labeled is not None:
            with Path(self.labeled).open("ab", buffering=0) as log:
                log.write(b"." * len(pixels))
        with self._lock:
            # Every part has taken some of it, as every part of the real engine does.
            for part in self.part_seconds:
                self.part_seconds[part] += (time.perf_counter() - start) / len(self.part_seconds)
        return found

    def collect(self, submission: list[ImageDetections]) -> list[ImageDetections]:
        return submission

    def _one(self, image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> ImageDetections:
        height, width = size_hw
        detections = []
        mean = float(image.mean())
        for prompt in range(self.num_prompts):
            mask = np.zeros((height, width), bool)
            top, left = int(mean) % max(1, height // 2), (int(mean * 7) + prompt) % max(1, width // 2)
            mask[top : top + height // 3 + 1, left : left + width // 4 + 1] = True
            box = (float(left), float(top), float(left + width // 4 + 1), float(top + height // 3 + 1))
            detections.append(Detection(prompt, (mean % 100) / 200 + 0.3, box, int(mask.sum()), encode_mask(mask)))
        presence = np.full(self.num_prompts, 0.75, np.float32)
        return ImageDetections(presence, np.zeros(self.num_prompts, bool), detections)


class HoldPoint:
    """Where a process that labels can be held, with a unit in its hands.

    Args:
        folder: A file named by the process's number asks for it; the process answers with a second one.
    """

    _LONGEST_S = 240.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ask(self, pid: int) -> None:
        """Hold a process as soon as it has images to label."""
        self._folder.mkdir(exist_ok=True)
        (self._folder / f"{pid}").touch()

    def release(self, pid: int) -> None:
        """Let it go on."""
        (self._folder / f"{pid}").unlink()

    def is_held(self, pid: int) -> bool:
        """Whether it has come there; it stays until it is released or killed."""
        return (self._folder / f"{pid}.held").exists()

    def reach(self) -> None:
        """Called with images in hand."""
        asked = self._folder / f"{os.getpid()}"
        end_s = time.monotonic() + self._LONGEST_S
        while asked.exists() and time.monotonic() < end_s:
            (self._folder / f"{os.getpid()}.held").touch()
            time.sleep(0.1)


def load_standin(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    config: Config,
    resources: ActorResources,
    *,
    seconds_per_image: float = 0.0,
    labeled: str | None = None,
    hold: str | None = None,
) -> StandInEngine:
    """An engine factory for ``label_run``."""
    return StandInEngine(len(prompts), seconds_per_image, labeled, hold)


def load_after_deaths(
    load: EngineFactory,
    deaths: str,
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    config: Config,
    resources: ActorResources,
) -> Engine:
    """An engine factory whose process is killed as long as it finds a file in a folder; it takes the file along."""
    for path in Path(deaths).iterdir():
        with suppress(FileNotFoundError):  # another process died of it
            path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return load(checkpoint, prompts, config, resources)


class PoisonedEngine(StandInEngine):
    """Dies, hangs, breaks its device or asks for too much memory at certain images."""

    is_broken = False

    def submit(
        self, pixels: Sequence[npt.NDArray[np.uint8]], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[ImageDetections]:
        if self.is_broken:
            raise DeviceError("Device cuda:0 failed: CUDA error: an illegal memory access was encountered")
        return super().submit(pixels, sizes_hw)

    def _one(self, image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> ImageDetections:
        red = int(image[0, 0, 0])
        if abs(red - KILLER_RED) <= 2:
            os.abort()
        if abs(red - HANGER_RED) <= 2:
            time.sleep(3600)
        if abs(red - BREAKER_RED) <= 2:
            self.is_broken = True
            return self.submit([image], [size_hw])[0]
        if abs(red - HOG_RED) <= 2:
            _ask_for_too_much()
        if abs(red - GLUTTON_RED) <= 2:
            _fill_memory()
        return super()._one(image, size_hw)


def _fill_memory() -> None:
    """Bounded, so that the machine survives where nobody kills this process."""
    taken = []
    for _ in range(60):
        taken.append(np.ones(10**8, np.uint8))
        time.sleep(0.02)
    time.sleep(5.0)  # whoever watches does so now and then


def _ask_for_too_much() -> None:
    """Run into RLIMIT_AS as a process with a limit does; the limit is lifted again, for it hits all threads."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + 2**28, before[1]))
    try:
        np.ones(2**32, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def load_poisoned(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    config: Config,
    resources: ActorResources,
    *,
    seconds_per_image: float = 0.0,
    labeled: str | None = None,
    hold: str | None = None,
) -> PoisonedEngine:
    """An engine factory whose engine has trouble with poisoned images."""
    return PoisonedEngine(len(prompts), seconds_per_image, labeled, hold)


def plain_image(color: tuple[int, int, int], size_wh: tuple[int, int] = (40, 30)) -> bytes:
    """PNG bytes of a one-coloured image."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size_wh, color).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    """A WebDataset shard with these members, the same bytes every time."""
    import io
    import tarfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
