"""The demo checkpoint's architecture: the real `Sam3LiteTextModel`, small enough for a laptop's CPU."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn
from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

from sam3lt_ray.demo.tokenizer import CONTEXT_LENGTH, VOCABULARY

IMAGE_SIZE: Final = 240
GRID_SIZE: Final = 20  # patches of 12 pixels
MASK_SIZE: Final = 4 * GRID_SIZE
NUM_QUERIES: Final = 24
WIDTH: Final = 128  # of everything behind the vision transformer
_VIT_LAYERS: Final = 8


def demo_config() -> Sam3LiteTextConfig:
    """The configuration of the demo checkpoint (7.6 M parameters)."""
    vision = {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": WIDTH,
        "backbone_feature_sizes": [[MASK_SIZE, MASK_SIZE], [2 * GRID_SIZE, 2 * GRID_SIZE], [GRID_SIZE, GRID_SIZE]],
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": _VIT_LAYERS,
            "num_attention_heads": 6,
            "image_size": IMAGE_SIZE,
            "pretrain_image_size": IMAGE_SIZE,
            "patch_size": IMAGE_SIZE // GRID_SIZE,
            "window_size": GRID_SIZE // 2,
            "global_attn_indexes": list(range(1, _VIT_LAYERS, 2)),
        },
    }
    text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_LENGTH,
        "use_repmixer_blocks": True,
        "layer_scale_init_value": 0.1,
        "repmixer_kernel_size": 5,
    }
    block = {"hidden_size": WIDTH, "num_attention_heads": 4, "dropout": 0.0}
    return Sam3LiteTextConfig(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config={**block, "num_layers": 1, "intermediate_size": WIDTH, "roi_size": 1},
        detr_encoder_config={**block, "num_layers": 2, "intermediate_size": 4 * WIDTH},
        detr_decoder_config={**block, "num_layers": 3, "intermediate_size": 4 * WIDTH, "num_queries": NUM_QUERIES},
        mask_decoder_config={**block, "num_upsampling_stages": 2},
    )


def new_model(seed: int) -> Sam3LiteTextModel:
    """A freshly initialised model.

    transformers draws weights with a standard deviation of 0.02, made for widths of 256 to 1,024; at 128 that starts
    training with a long stall. Weights are drawn here by fan-in and fan-out (Glorot and Bengio, 2010), queries and
    words far enough apart to be told from each other, and the first boxes lie on a grid.
    """
    torch.manual_seed(seed)
    model = Sam3LiteTextModel(demo_config())
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for embedding in (model.text_encoder.embeddings.token_embedding, model.detr_decoder.query_embed):
        nn.init.normal_(embedding.weight, std=0.5)
    nn.init.normal_(model.detr_decoder.presence_token.weight, std=0.5)
    # Boxes start where the reference points are, masks near one half everywhere.
    last_of_boxes, last_of_masks = model.detr_decoder.box_head.layer3, model.mask_decoder.mask_embedder.layers[-1]
    assert isinstance(last_of_boxes, nn.Linear)
    assert isinstance(last_of_masks, nn.Linear)
    nn.init.zeros_(last_of_boxes.weight)
    nn.init.xavier_uniform_(last_of_masks.weight, gain=0.1)
    with torch.no_grad():
        model.detr_decoder.reference_points.weight.copy_(_reference_grid())
    return model


def _reference_grid() -> torch.Tensor:
    """Logits of boxes (cx, cy, w, h) a quarter of the image wide, on a 6 x 4 grid; float32 [NUM_QUERIES, 4]."""
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(6) + 0.5) / 6, indexing="ij")
    boxes = torch.stack([x.flatten(), y.flatten(), torch.full((24,), 0.25), torch.full((24,), 0.25)], dim=-1)
    return torch.logit(boxes[:NUM_QUERIES])
