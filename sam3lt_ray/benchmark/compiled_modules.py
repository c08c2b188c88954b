"""transformers' own modules as four functions that compile well: static shapes, no waiting for the device inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.models.sam3.modeling_sam3 import box_cxcywh_to_xyxy, inverse_sigmoid

from sam3lt_ray.engine.checkpoint import Checkpoint

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class CompiledModules:
    """The parts of the model.

    Attributes:
        vision: uint8 [B, S, S, 3] to the feature levels that are used, fine to coarse, each [B, C, h, w].
        encode: (coarse level, positions, text, text mask), each with a row per prompt, to memory [P, N, C].
        decode: (memory, positions [P, N, C], text, text mask) to queries [P, Q, C], boxes, logits and presence logits.
        masks: (queries, levels, memory, text, text mask) to mask logits [P, Q, H, W].
        positions: Of the coarse level, [1, C, h, w].
    """

    vision: Function
    encode: Function
    decode: Function
    masks: Function
    positions: torch.Tensor


def place_model(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Moves the model and casts its parameters; the text encoder, used once, and all buffers stay float32.

    (The rotary embedding's frequencies are a buffer, and bf16 cannot tell its positions apart.)
    """
    model.to(device)
    text = {*map(id, model.text_encoder.parameters()), *map(id, model.text_projection.parameters())}
    for parameter in model.parameters():
        if id(parameter) not in text:
            parameter.data = parameter.data.to(dtype)


def compile_modules(
    model: Any, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, *, compiled: bool
) -> CompiledModules:
    """Wraps a placed model.

    Args:
        model: transformers' model, changed in one place: the decoder's coordinates no longer come from numbers on the
            device, for which it would wait.
        checkpoint: For image size and normalisation.
        device: Where the model is.
        dtype: Of its parameters.
        compiled: False: the same functions, eager.
    """
    vision_config = model.config.vision_config
    side = checkpoint.image_size // vision_config.backbone_config.patch_size
    levels_255 = 255 * torch.tensor([checkpoint.image_mean, checkpoint.image_std], device=device)
    mean, std = levels_255[0].view(1, 3, 1, 1), levels_255[1].view(1, 3, 1, 1)
    shapes = torch.tensor([[side, side]])  # on the CPU; only its shape is read
    positions = model.vision_encoder.neck.position_encoding(
        (1, vision_config.fpn_hidden_size, side, side), device, torch.float32
    ).to(dtype)

    def coordinates(_height: Any, _width: Any, dtype: torch.dtype, device: torch.device) -> Any:
        steps = torch.arange(side, dtype=dtype, device=device) / side
        return steps, steps

    model.detr_decoder._get_coords = coordinates

    def vision(pixels_bhwc: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = (pixels_bhwc.permute(0, 3, 1, 2).float() - mean) / std
        levels = model.vision_encoder(values.to(dtype)).fpn_hidden_states
        return tuple(levels[:-1])

    def encode(coarse: Any, coarse_positions: Any, text: Any, text_mask: Any) -> torch.Tensor:
        encoded = model.detr_encoder(
            vision_features=[coarse], text_features=text, vision_pos_embeds=[coarse_positions], text_mask=text_mask
        )
        memory: torch.Tensor = encoded.last_hidden_state
        return memory

    def decode(memory: Any, memory_positions: Any, text: Any, text_mask: Any) -> tuple[torch.Tensor, ...]:
        decoded = model.detr_decoder(
            vision_features=memory,
            text_features=text,
            vision_pos_encoding=memory_positions,
            text_mask=text_mask,
            spatial_shapes=shapes,
        )
        states = decoded.intermediate_hidden_states[-1:]
        boxes = (inverse_sigmoid(decoded.reference_boxes[-1:]) + model.detr_decoder.box_head(states)).sigmoid()
        logits = model.dot_product_scoring(decoder_hidden_states=states, text_features=text, text_mask=text_mask)
        return states[-1], box_cxcywh_to_xyxy(boxes)[-1], logits.squeeze(-1)[-1], decoded.presence_logits[-1]

    def masks(queries: Any, levels: list[Any], memory: Any, text: Any, text_mask: Any) -> torch.Tensor:
        decoded = model.mask_decoder(
            decoder_queries=queries,
            backbone_features=list(levels),
            encoder_hidden_states=memory,
            prompt_features=text,
            prompt_mask=text_mask,
        )
        pred_masks: torch.Tensor = decoded.pred_masks
        return pred_masks

    def finish(function: Function) -> Function:
        return torch.compile(function, dynamic=False) if compiled else function

    return CompiledModules(finish(vision), finish(encode), finish(decode), finish(masks), positions)
