"""Writing a model as a checkpoint folder that the product's loader, and transformers, can open."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from sam3lt_ray.demo.tokenizer import save_tokenizer


def export_checkpoint(model: Sam3LiteTextModel, folder: Path) -> None:
    """Writes model.safetensors (half precision), config.json and the tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in model.state_dict().items():
        kept = tensor.detach().cpu()
        tensors[name] = (kept.half() if kept.is_floating_point() else kept).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner may read
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float16
    model.config.save_pretrained(folder)
    save_tokenizer(folder)
