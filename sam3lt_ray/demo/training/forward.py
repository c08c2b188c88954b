"""The forward pass of training: the model's own modules, called so that a step can be compiled and captured.

transformers' `forward` reads sizes from device tensors and encodes the image once per prompt. Here an image is encoded
once for all of its prompts, the first self-attention of the DETR encoder (which has not met the prompt yet) as well,
and every shape is static. A test keeps the outputs equal to those of `Sam3LiteTextModel.forward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import (
    Sam3LiteTextModel,
    box_cxcywh_to_xyxy,
    inverse_sigmoid,
)

from sam3lt_ray.demo.training.regions import region


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Encoded phrases.

    Attributes:
        tokens: Features the image attends to, [T, length, C].
        attention_mask: True at tokens that are no padding, bool [T, 1, 1, length].
        scoring: What decoder queries are compared with, [T, C].
    """

    tokens: torch.Tensor
    attention_mask: torch.Tensor
    scoring: torch.Tensor


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Encoded images: feature maps from fine to coarse, each [B, C, h, w], and positions of the coarsest, [1, N, C]."""

    maps: tuple[torch.Tensor, ...]
    positions: torch.Tensor


@dataclass(frozen=True, slots=True)
class DecoderOutput:
    """What each of L decoder layers says about n (image, prompt) pairs.

    Attributes:
        queries: Query features, [L, n, Q, C].
        boxes_cxcywh: float32 [L, n, Q, 4], shares of the image.
        logits: Scores given that the prompt is present, float32 [L, n, Q].
        presence_logits: float32 [L, n].
    """

    queries: torch.Tensor
    boxes_cxcywh: torch.Tensor
    logits: torch.Tensor
    presence_logits: torch.Tensor


def encode_text(model: Sam3LiteTextModel, input_ids: torch.Tensor, mask: torch.Tensor) -> TextFeatures:
    """Encodes T phrases (int64 and bool, [T, length])."""
    attention_mask = mask[:, None, None, :]
    hidden = model.text_encoder.embeddings(input_ids)
    for layer in model.text_encoder.layers:
        hidden = layer(hidden, attention_mask=attention_mask.expand(-1, -1, hidden.shape[1], -1))
    tokens = model.text_projection(model.text_encoder.final_layer_norm(hidden))
    scoring = model.dot_product_scoring
    pooled = scoring._pool_text_features(scoring.text_mlp_out_norm(scoring.text_mlp(tokens) + tokens), mask)
    return TextFeatures(tokens, attention_mask, scoring.text_proj(pooled))


def encode_images(model: Sam3LiteTextModel, pixel_values: torch.Tensor) -> ImageFeatures:
    """Encodes B images (float32 [B, 3, H, W]); leaves out the coarsest feature map, which no later part reads."""
    backbone, neck = model.vision_encoder.backbone, model.vision_encoder.neck
    grid = pixel_values.shape[-1] // backbone.config.patch_size
    hidden = backbone.embeddings(pixel_values).unflatten(1, (grid, grid))
    hidden = backbone.layer_norm(hidden)
    for layer in backbone.layers:
        hidden = _vision_layer(layer, hidden)
    hidden = hidden.permute(0, 3, 1, 2)
    maps = tuple(layer(hidden) for layer in neck.fpn_layers[:-1])
    positions = neck.position_encoding(torch.Size((1, *maps[-1].shape[1:])), hidden.device, torch.float32)
    return ImageFeatures(maps, positions.flatten(2).transpose(1, 2))


def encode_pairs(
    model: Sam3LiteTextModel, image: ImageFeatures, text: TextFeatures, phrase_ids: torch.Tensor
) -> torch.Tensor:
    """Runs the DETR encoder for P phrases per image (int64 [B, P]); returns image tokens [B * P, N, C]."""
    num_prompts = phrase_ids.shape[1]
    tokens, attention_mask = text.tokens[phrase_ids.flatten()], text.attention_mask[phrase_ids.flatten()]
    hidden = image.maps[-1].flatten(2).transpose(1, 2)
    mask = attention_mask.expand(-1, -1, hidden.shape[1], -1)
    for number, layer in enumerate(model.detr_encoder.layers):
        hidden = _encoder_self_attention(layer, hidden, image.positions)
        if number == 0:
            hidden = hidden.repeat_interleave(num_prompts, dim=0)
        hidden = _encoder_prompt_layer(layer, hidden, tokens, mask)
    return hidden


def decode_pairs(
    model: Sam3LiteTextModel, encoded: torch.Tensor, image: ImageFeatures, text: TextFeatures, phrase_ids: torch.Tensor
) -> DecoderOutput:
    """Runs the DETR decoder on encoded pairs ([n, N, C]) with their phrases (int64 [n])."""
    decoder = model.detr_decoder
    tokens, attention_mask = text.tokens[phrase_ids], text.attention_mask[phrase_ids]
    num_pairs, grid = len(encoded), (image.maps[-1].shape[-2], image.maps[-1].shape[-1])
    start = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])
    hidden = start.expand(num_pairs, -1, -1)
    text_mask = attention_mask.expand(-1, -1, hidden.shape[1], -1)
    references = decoder.reference_points.weight.float().sigmoid().expand(num_pairs, -1, -1)
    queries, boxes, presence_logits = [], [], []
    for layer in decoder.layers:
        hidden, query, refined, presence = _decoder_layer(
            decoder, layer, hidden, references, tokens, text_mask, encoded, image.positions, grid
        )
        references = refined.detach()
        queries.append(query)
        boxes.append(refined)
        presence_logits.append(presence)
    stacked = torch.stack(queries)
    return DecoderOutput(
        stacked, torch.stack(boxes), _score(model, stacked, text.scoring[phrase_ids]), torch.stack(presence_logits)
    )


@region
def decode_masks(
    model: Sam3LiteTextModel,
    encoded: torch.Tensor,
    maps: tuple[torch.Tensor, ...],
    queries: torch.Tensor,
    text: TextFeatures,
    phrase_ids: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the mask decoder for n pairs.

    Args:
        model: The model.
        encoded: Image tokens of the pairs, [n, N, C].
        maps: Feature maps of the pairs' images, [n, C, h, w], from fine to coarse; the last one is not read.
        queries: Features of the queries whose masks are wanted, [n, q, C].
        text: The encoded phrases.
        phrase_ids: The pairs' phrases, int64 [n].

    Returns:
        Mask logits [n, q, h, w] and semantic logits [n, h, w].
    """
    decoder = model.mask_decoder
    tokens, attention_mask = text.tokens[phrase_ids], text.attention_mask[phrase_ids]
    normed = decoder.prompt_cross_attn_norm(encoded)
    mask = attention_mask.expand(-1, -1, encoded.shape[1], -1)
    encoded = encoded + decoder.prompt_cross_attn(query=normed, key=tokens, value=tokens, attention_mask=mask)[0]
    coarse = encoded.transpose(1, 2).unflatten(2, maps[-1].shape[-2:])
    pixels = decoder.pixel_decoder([*maps[:-1], coarse])
    embeddings = decoder.mask_embedder(queries)
    masks = torch.einsum("nqc,nchw->nqhw", embeddings, decoder.instance_projection(pixels))
    return masks, decoder.semantic_projection(pixels)[:, 0]


@region
def _vision_layer(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = layer(hidden)
    return output


@region
def _encoder_self_attention(layer: Any, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    normed = layer.layer_norm1(hidden)
    placed = normed + positions
    updated: torch.Tensor = hidden + layer.self_attn(query=placed, key=placed, value=normed)[0]
    return updated


@region
def _encoder_prompt_layer(layer: Any, hidden: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    normed = layer.layer_norm2(hidden)
    hidden = hidden + layer.cross_attn(query=normed, key=tokens, value=tokens, attention_mask=mask)[0]
    updated: torch.Tensor = hidden + layer.mlp(layer.layer_norm3(hidden))
    return updated


@region
def _decoder_layer(
    decoder: Any,
    layer: Any,
    hidden: torch.Tensor,
    references: torch.Tensor,
    tokens: torch.Tensor,
    text_mask: torch.Tensor,
    encoded: torch.Tensor,
    positions: torch.Tensor,
    grid: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One decoder layer with its read-outs: hidden states, query features, boxes, presence logits."""
    bias = functional.pad(decoder._get_rpb_matrix(references, grid), (0, 0, 1, 0))
    hidden = layer(
        hidden,
        query_pos=decoder.ref_point_head(decoder.position_encoding.encode_boxes(references)),
        text_features=tokens,
        vision_features=encoded,
        vision_pos_encoding=positions,
        text_cross_attn_mask=text_mask,
        vision_cross_attn_mask=bias.to(encoded.dtype),
    )
    query = decoder.output_layer_norm(hidden[:, 1:])
    refined = (decoder.box_head(query).float() + inverse_sigmoid(references)).sigmoid()
    presence = decoder.presence_head(decoder.presence_layer_norm(hidden[:, 0])).float().squeeze(-1)
    limit = decoder.clamp_presence_logit_max_val
    return hidden, query, refined, presence.clamp(-limit, limit)


def _score(model: Sam3LiteTextModel, queries: torch.Tensor, scoring: torch.Tensor) -> torch.Tensor:
    head = model.dot_product_scoring
    scores = (head.query_proj(queries) @ scoring[None, :, :, None]).squeeze(-1).float() * head.scale
    clamped: torch.Tensor = scores.clamp(-head.clamp_max_val, head.clamp_max_val)
    return clamped


def xyxy(boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    """Boxes as left, top, right, bottom."""
    boxes: torch.Tensor = box_cxcywh_to_xyxy(boxes_cxcywh)
    return boxes
