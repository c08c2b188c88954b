"""Which device, which precision, how much at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch

from sam3lt_ray.errors import UsageError

Auto = Literal["auto"]

_CPU_PAIRS: Final = 8  # more (image, prompt) pairs at once leave the caches
_CUDA_MOST_PAIRS: Final = 128  # from here on a larger batch is no faster
_CUDA_MOST_IMAGES: Final = 8
_CUDA_MEMORY_SHARE: Final = 0.4
# Values held per image token and (image, prompt) pair at the fullest moment: features, Q, K, V, the inner layer of the
# MLP, and the decoder's position bias of 8 heads x 201 queries.
_VALUES_PER_TOKEN: Final = 256 * 6 + 2048 + 8 * 201 * 2


@dataclass(frozen=True, slots=True)
class Placement:
    """Device and number format of the large matrix products; boxes, scores, presence and norms are always float32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """The number format by name: "fp32" or "bf16"."""
        return "bf16" if self.dtype is torch.bfloat16 else "fp32"


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
    num_prompts: int,
    images_per_batch: int | Auto,
    prompts_per_batch: int | Auto,
) -> tuple[int, int]:
    """Resolves "auto" batch sizes.

    Args:
        placement: Where it runs.
        num_tokens: Tokens of one image in the DETR encoder.
        num_prompts: Size of the vocabulary.
        images_per_batch: Images encoded together; each meets each prompt of a batch, so memory grows with the product.
        prompts_per_batch: Prompts that go through the DETR encoder and decoder together.

    Returns:
        (images per batch, prompts per batch).
    """
    if placement.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(placement.device)
        pair_bytes = num_tokens * _VALUES_PER_TOKEN * placement.dtype.itemsize
        pairs = max(1, min(_CUDA_MOST_PAIRS, int(free * _CUDA_MEMORY_SHARE) // pair_bytes))
        default_images = min(_CUDA_MOST_IMAGES, pairs)
    else:
        pairs, default_images = _CPU_PAIRS, 1
    images = default_images if images_per_batch == "auto" else images_per_batch
    prompts = max(1, pairs // images) if prompts_per_batch == "auto" else prompts_per_batch
    return images, min(prompts, num_prompts)
