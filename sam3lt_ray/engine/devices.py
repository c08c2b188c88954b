"""Which device, which precision, how much at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch

from sam3lt_ray.errors import UsageError

Auto = Literal["auto"]

_CPU_PAIRS: Final = 8  # more (image, prompt) pairs at once leave the caches
_CUDA_MOST_PAIRS: Final = 64  # from here on a larger batch is hardly faster
_CUDA_MOST_IMAGES: Final = 8
_CUDA_MEMORY_SHARE: Final = 0.3  # for pairs, and the same again for images
# Values held at the fullest moment for each token of an image: of a pair that is grounded (features, queries, keys,
# values, the inner layer of the MLP), and of an image that is encoded (the same, four times as wide).
_PAIR_VALUES_PER_TOKEN: Final = 5_000
_IMAGE_VALUES_PER_TOKEN: Final = 20_000


@dataclass(frozen=True, slots=True)
class Placement:
    """Device and number format of the large matrix products; boxes, scores, presence and norms are always float32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """The number format by name: "fp32" or "bf16"."""
        return "bf16" if self.dtype is torch.bfloat16 else "fp32"


def num_cuda_devices() -> int:
    """GPUs that torch sees on this machine."""
    return torch.cuda.device_count()


def choose_placement(device: str, precision: str) -> Placement:
    """Resolves "auto": CUDA with bf16 where there is a GPU that has bf16, otherwise fp32.

    Raises:
        UsageError: CUDA was asked for and there is none, or a name is unknown.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not supported: expected auto, cpu or cuda.")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "device cuda was asked for, but torch sees no CUDA GPU: check the driver (nvidia-smi) and that torch is a "
            "CUDA build, or use device cpu."
        )
    if precision == "auto":
        has_bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if has_bf16 else "fp32"
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in dtypes:
        raise UsageError(f"precision {precision!r} is not supported: expected auto, fp32 or bf16.")
    return Placement(chosen, dtypes[precision])


def choose_batches(
    placement: Placement,
    *,
    num_tokens: int,
    images_per_batch: int | Auto,
    prompts_per_batch: int | Auto,
) -> tuple[int, int]:
    """Resolves "auto" batch sizes.

    Args:
        placement: Where it runs.
        num_tokens: Tokens of one image in the DETR encoder.
        images_per_batch: Images that go through the vision encoder together.
        prompts_per_batch: Pairs of a prompt with an image that go through the DETR encoder and decoder together.

    Returns:
        (images per batch, prompts per batch).
    """
    if placement.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(placement.device)
        tokens = int(free * _CUDA_MEMORY_SHARE) // (num_tokens * placement.dtype.itemsize)
        pairs = max(1, min(_CUDA_MOST_PAIRS, tokens // _PAIR_VALUES_PER_TOKEN))
        images = max(1, min(_CUDA_MOST_IMAGES, tokens // _IMAGE_VALUES_PER_TOKEN))
    else:
        pairs, images = _CPU_PAIRS, 1
    return (
        images if images_per_batch == "auto" else images_per_batch,
        pairs if prompts_per_batch == "auto" else prompts_per_batch,
    )
