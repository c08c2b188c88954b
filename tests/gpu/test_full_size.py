"""At the published size, with random weights: bf16 is as near to fp32 as transformers' own bf16 forward, within 5 %."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.grounding import Grounding
from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.pairs import make_pairs
from sam3lt_ray.engine.text_bank import TextFeatures
from sam3lt_ray.engine.vision import VisionEncoder
from tests.engine_reference import smooth_image
from tests.kernel_cases import relative_error

IMAGE_PROMPT = np.array([(0, 0), (0, 5), (1, 7), (1, 2)], np.int32)
NUM_PROMPTS, NUM_WORDS, NUM_MASKS = 8, 8, 6
CHECKPOINT = Checkpoint(Path(), "full", None, "sam3_lite_text", 1008, 32, (0.5,) * 3, (0.5,) * 3, {}, 0)

Outputs = dict[str, torch.Tensor]


def make_model() -> Any:
    """Weights that say something: transformers' initial ones hardly change what goes through."""
    from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig
    from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

    torch.manual_seed(0)
    config = Sam3LiteTextConfig(text_config={"num_hidden_layers": 1, "hidden_size": 512})
    with torch.device("cuda"):
        model = Sam3LiteTextModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and "norm" not in name:
            parameter.normal_(0, 0.02)
        elif parameter.dim() == 2 and "detr" in name:
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]))
        elif parameter.dim() == 2 and "backbone.layers" in name:
            parameter.normal_(0, 0.7 / math.sqrt(parameter.shape[1]))
    return model


def transformers_forward(model: Any, pixels: torch.Tensor, text: torch.Tensor, dtype: torch.dtype) -> Outputs:
    from transformers.models.sam3.modeling_sam3 import box_cxcywh_to_xyxy, inverse_sigmoid

    values = ((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).to(dtype)
    encoded = model.vision_encoder(values)
    images, prompts = (torch.from_numpy(column).long().cuda() for column in IMAGE_PROMPT.T)
    words, mask = text[prompts].to(dtype), torch.ones(len(prompts), NUM_WORDS, dtype=torch.bool, device="cuda")
    levels = [level[images] for level in encoded.fpn_hidden_states[:-1]]
    positions = encoded.fpn_position_encoding[-2].expand(len(pixels), -1, -1, -1)[images].to(dtype)
    memory = model.detr_encoder(
        vision_features=[levels[-1]], text_features=words, vision_pos_embeds=[positions], text_mask=mask
    )
    decoded = model.detr_decoder(
        vision_features=memory.last_hidden_state,
        text_features=words,
        vision_pos_encoding=memory.pos_embeds_flattened,
        text_mask=mask,
        spatial_shapes=memory.spatial_shapes,
    )
    states = decoded.intermediate_hidden_states[-1:]
    boxes = (inverse_sigmoid(decoded.reference_boxes[-1:]) + model.detr_decoder.box_head(states)).sigmoid()
    logits = model.dot_product_scoring(decoder_hidden_states=states, text_features=words, text_mask=mask)
    presence = decoded.presence_logits[-1].sigmoid()
    masks = model.mask_decoder(
        decoder_queries=states[-1],
        backbone_features=levels,
        encoder_hidden_states=memory.last_hidden_state,
        prompt_features=words,
        prompt_mask=mask,
    ).pred_masks
    return {
        "tokens": encoded.fpn_hidden_states[-2].flatten(2).transpose(1, 2),
        "memory": memory.last_hidden_state,
        "queries": states[-1],
        "boxes": box_cxcywh_to_xyxy(boxes)[-1],
        "scores": logits.squeeze(-1)[-1].sigmoid() * presence,
        "presence": presence[:, 0],
        "masks": masks[:, :NUM_MASKS],
    }


def engine_forward(model: Any, pixels: torch.Tensor, text: torch.Tensor, dtype: torch.dtype) -> Outputs:
    placement = Placement(torch.device("cuda"), dtype)
    features = TextFeatures(text, torch.ones(text.shape[:2], dtype=torch.bool, device="cuda"))
    vision = VisionEncoder(model.vision_encoder, CHECKPOINT, placement)
    grounding = Grounding(model, features, vision.positions, vision.grid_hw, placement)
    mask_head = MaskHead(model.mask_decoder, features, vision.grid_hw, placement)
    encoded, pairs = vision.encode(pixels), make_pairs(IMAGE_PROMPT, placement.device)
    found = grounding.ground(grounding.start(encoded.tokens), pairs)
    parts = mask_head.image_parts(vision.fine_features(encoded.backbone))
    masks = mask_head.logits(found.memory, pairs.prompts, parts, pairs.images, found.queries[:, :NUM_MASKS])
    return {
        "tokens": encoded.tokens,
        "memory": found.memory,
        "queries": found.queries,
        "boxes": found.boxes_xyxy,
        "scores": found.scores,
        "presence": found.presence,
        "masks": masks,
    }


@pytest.mark.usefixtures("exact_products")
def test_bf16_is_as_near_to_fp32_as_transformers_within_5_percent() -> None:
    with torch.inference_mode():
        model = make_model()
        pixels = torch.from_numpy(np.stack([smooth_image(1008, seed) for seed in (1, 2)])).cuda()
        text = torch.randn(NUM_PROMPTS, NUM_WORDS, 256, device="cuda")
        exact = transformers_forward(model, pixels, text, torch.float32)
        ours_fp32 = engine_forward(copy.deepcopy(model), pixels, text, torch.float32)
        theirs = transformers_forward(copy.deepcopy(model).to(torch.bfloat16), pixels, text, torch.bfloat16)
        ours = engine_forward(model, pixels, text, torch.bfloat16)
    for name, expected in exact.items():
        assert relative_error(ours_fp32[name], expected) < 1e-5, name
        error, their_error = relative_error(ours[name], expected), relative_error(theirs[name], expected)
        print(f"{name:10s} ours {error:.4f}, transformers {their_error:.4f}")
        assert error < 1.05 * their_error, name
