"""Each thing that is computed once instead of again, against transformers' plain module."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sam3lt_ray.engine.boxes import take_box_geometry
from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.detr_decoder import DetrDecoder
from sam3lt_ray.engine.detr_encoder import DetrEncoder, Memory
from sam3lt_ray.engine.devices import Placement
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.engine.mask_head import MaskHead
from sam3lt_ray.engine.ops.token_attention import BASE_2
from sam3lt_ray.engine.pairs import Pairs, make_pairs
from sam3lt_ray.engine.patches import PatchEmbedding
from sam3lt_ray.engine.prompt_attention import PromptAttentions, fold_prompts
from sam3lt_ray.engine.scoring import Scoring
from sam3lt_ray.engine.text_bank import TextFeatures, encode_prompts
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.engine.vision import VisionEncoder
from sam3lt_ray.errors import CheckpointError
from tests.checkpoints import PROMPTS
from tests.engine_reference import random_checkpoints, smooth_image  # noqa: F401  (one is a fixture)

PLACEMENT = Placement(torch.device("cpu"), torch.float32)


class Parts:
    """A model's parts, and what goes between them for two images."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model: Any = load_model(checkpoint)
        self.ids, self.mask = (torch.from_numpy(array) for array in PromptTokenizer(checkpoint).encode(PROMPTS))
        self.text = encode_prompts(self.model, PromptTokenizer(checkpoint), PROMPTS, PLACEMENT.device)
        self.vision = VisionEncoder(self.model.vision_encoder, checkpoint, PLACEMENT)
        self.pixels = torch.from_numpy(np.stack([smooth_image(checkpoint.image_size, seed) for seed in (5, 6)]))
        self.features = self.vision.encode(self.pixels)
        values = ((self.pixels.float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
        self.plain_vision = self.model.vision_encoder(values)
        self.full_text = self.model.get_text_features(self.ids, self.mask).pooler_output

    def plain_memory(self, image: int, prompt: int) -> Any:
        """transformers' encoder for one pair."""
        return self.model.detr_encoder(
            vision_features=[self.plain_vision.fpn_hidden_states[-2][image : image + 1]],
            text_features=self.full_text[prompt : prompt + 1],
            vision_pos_embeds=[self.plain_vision.fpn_position_encoding[-2][image : image + 1]],
            text_mask=self.mask[prompt : prompt + 1].bool(),
        )


@pytest.fixture(scope="module")
def parts(random_checkpoints: dict[str, Checkpoint]) -> Parts:  # noqa: F811
    with torch.inference_mode():
        return Parts(random_checkpoints["s0"])


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.inference_mode():
        yield


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_text_is_trimmed_after_encoding(parts: Parts) -> None:
    lengths = parts.mask.sum(dim=1)
    assert parts.text.tokens.shape[1] == int(lengths.max()) < parts.mask.shape[1]
    assert torch.equal(parts.text.valid.sum(dim=1), lengths)
    close(parts.text.tokens, parts.full_text[:, : parts.text.tokens.shape[1]])


def test_padding_reaches_convolutions_before_it_is_trimmed(parts: Parts) -> None:
    """If it did not matter to the text encoder, the order of the two steps would be untested."""
    length = int(parts.mask.sum(dim=1).max())
    trimmed = parts.model.get_text_features(parts.ids[:, :length], parts.mask[:, :length]).pooler_output
    assert (trimmed - parts.full_text[:, :length]).abs().max() > 0.01


def test_vision_features(parts: Parts) -> None:
    *fine, coarse, _ = parts.plain_vision.fpn_hidden_states
    close(parts.features.tokens, coarse.flatten(2).transpose(1, 2))
    close(parts.vision.positions, parts.plain_vision.fpn_position_encoding[-2][0].flatten(1).t())
    for found, expected in zip(parts.vision.fine_features(parts.features.backbone), reversed(fine), strict=True):
        close(found, expected)


def all_pairs(num_images: int, prompts: Sequence[int] = range(len(PROMPTS))) -> Pairs:
    image_prompt = [(image, prompt) for image in range(num_images) for prompt in prompts]
    return make_pairs(np.array(image_prompt, np.int32), PLACEMENT.device)


def test_folded_prompt_attention(parts: Parts) -> None:
    module = parts.model.detr_encoder.layers[1].cross_attn
    queries = torch.randn(len(PROMPTS), 9, 32, generator=torch.Generator().manual_seed(0))
    found = fold_prompts(module, parts.text, PLACEMENT)(queries)
    mask = parts.mask.bool()[:, None, None]
    expected, _ = module(query=queries, key=parts.full_text, value=parts.full_text, attention_mask=mask)
    close(found, expected)


def test_folded_prompt_attention_ignores_padding(parts: Parts) -> None:
    module = parts.model.detr_encoder.layers[1].cross_attn
    queries = torch.randn(len(PROMPTS), 9, 32, generator=torch.Generator().manual_seed(0))
    garbage = torch.where(parts.text.valid[..., None], parts.text.tokens, 100.0)
    found = fold_prompts(module, TextFeatures(garbage, parts.text.valid), PLACEMENT)(queries)
    close(found, fold_prompts(module, parts.text, PLACEMENT)(queries))


def test_encoder_with_shared_first_attention(parts: Parts) -> None:
    encoder = DetrEncoder(parts.model.detr_encoder, parts.text, parts.vision.positions, PLACEMENT)
    started = encoder.start(parts.features.tokens)
    before = started.clone()
    memory = encoder.ground(started, all_pairs(2))
    assert torch.equal(started, before)
    for image in (0, 1):
        for prompt in range(len(PROMPTS)):
            number = image * len(PROMPTS) + prompt
            expected = parts.plain_memory(image, prompt).last_hidden_state[0]
            close(memory.tokens[number], expected, 1e-4)
            close(memory.placed[number], expected + parts.vision.positions, 1e-4)


def test_decoder_with_its_beginning_computed_once(parts: Parts) -> None:
    module = parts.model.detr_decoder
    decoder = DetrDecoder(module, parts.text, parts.vision.grid_hw, PLACEMENT)
    scoring = Scoring(parts.model.dot_product_scoring, parts.text, PLACEMENT)
    for prompt in range(len(PROMPTS)):
        plain = [parts.plain_memory(image, prompt) for image in (0, 1)]
        memory = torch.cat([one.last_hidden_state for one in plain])
        rows = slice(prompt, prompt + 1)
        pairs = all_pairs(2, [prompt])
        found = decoder.find(Memory(memory, memory + parts.vision.positions), pairs)
        expected = module(
            vision_features=memory,
            text_features=parts.full_text[rows].expand(2, -1, -1),
            vision_pos_encoding=torch.cat([one.pos_embeds_flattened for one in plain]),
            text_mask=parts.mask[rows].bool().expand(2, -1),
            spatial_shapes=plain[0].spatial_shapes,
        )
        queries = expected.intermediate_hidden_states[-1]
        close(found.queries, queries, 1e-4)
        close(found.presence, expected.presence_logits[-1, :, 0].sigmoid())
        logits = parts.model.dot_product_scoring(
            queries[None], parts.full_text[rows].expand(2, -1, -1), parts.mask[rows].expand(2, -1)
        )
        scores = logits[0, ..., 0].sigmoid() * expected.presence_logits[-1].sigmoid()
        close(scoring(found.queries, found.presence, pairs.prompts), scores)


def test_box_bias_and_positions(parts: Parts) -> None:
    module = parts.model.detr_decoder
    geometry = take_box_geometry(module, (5, 8), PLACEMENT)
    boxes = torch.rand(3, 10, 4, generator=torch.Generator().manual_seed(1))
    expected = functional.pad(module._get_rpb_matrix(boxes, (5, 8)), (0, 0, 1, 0))
    by_row, by_column = geometry.attention_bias(boxes)
    close((by_row[..., :, None] + by_column[..., None, :]).flatten(-2) / BASE_2, expected)
    positions = module.ref_point_head(module.position_encoding.encode_boxes(boxes))
    close(geometry.query_positions(geometry.encode(boxes)), functional.pad(positions, (0, 0, 1, 0)))


def test_mask_head_with_phases_and_shared_image_parts(parts: Parts) -> None:
    module = parts.model.mask_decoder
    head = MaskHead(module, parts.text, parts.vision.grid_hw, PLACEMENT)
    queries = torch.randn(3, 10, 32, generator=torch.Generator().manual_seed(2))
    pairs = [(1, 3), (0, 5), (1, 6)]  # (image, prompt)
    kept = torch.tensor([1, 4, 7])
    plain = [parts.plain_memory(*pair).last_hidden_state for pair in pairs]
    found = head.logits(
        torch.cat(plain),
        torch.tensor([prompt for _, prompt in pairs]),
        head.image_parts(parts.vision.fine_features(parts.features.backbone)),
        torch.tensor([image for image, _ in pairs]),
        queries[:, kept],
    )
    for row, (image, prompt) in enumerate(pairs):
        expected = module(
            decoder_queries=queries[row : row + 1],
            backbone_features=[level[image : image + 1] for level in parts.plain_vision.fpn_hidden_states[:-1]],
            encoder_hidden_states=plain[row],
            prompt_features=parts.full_text[prompt : prompt + 1],
            prompt_mask=parts.mask[prompt : prompt + 1].bool(),
        )
        close(found[row], expected.pred_masks[0, kept], 2e-4)


def test_patches_with_any_normalisation(parts: Parts) -> None:
    """The deviation is part of the matrix, the mean is subtracted; also at the ends of the range."""
    checkpoint = replace(parts.checkpoint, image_mean=(0.48, 0.5, 0.3), image_std=(0.2, 0.5, 0.7))
    embeddings = parts.model.vision_encoder.backbone.embeddings
    num_tokens = parts.vision.grid_hw[0] * parts.vision.grid_hw[1]
    order = torch.randperm(num_tokens, generator=torch.Generator().manual_seed(3))
    pixels = parts.pixels.clone()
    pixels[0, :9], pixels[0, 9:15] = 0, 255
    mean, std = (torch.tensor(values) for values in (checkpoint.image_mean, checkpoint.image_std))
    values = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    close(PatchEmbedding(embeddings, checkpoint, order, PLACEMENT)(pixels), embeddings(values)[:, order], 1e-4)


def test_windows_that_do_not_tile_the_image_are_refused(parts: Parts) -> None:
    config = copy.deepcopy(parts.model.vision_encoder.config)
    config.backbone_config.window_size = 3
    module = copy.copy(parts.model.vision_encoder)
    module.config = config
    with pytest.raises(CheckpointError, match=r"windows of 3 patches, which do not tile its 8 x 8 patches"):
        VisionEncoder(module, parts.checkpoint, PLACEMENT)


def test_layers_that_are_stacked_are_not_kept_twice(parts: Parts) -> None:
    layers = [fold_prompts(one.text_cross_attn, parts.text, PLACEMENT) for one in parts.model.detr_decoder.layers[1:]]
    queries = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    prompts = torch.tensor([4, 1])
    expected = [layer.select(prompts)(queries) for layer in layers]
    stacked = PromptAttentions(layers)
    watched = [weakref.ref(getattr(layer, name)) for layer in layers for name in ("keys", "key_bias", "values")]
    del layers
    gc.collect()
    assert [reference() for reference in watched] == [None] * len(watched)
    for layer, values in zip(stacked.select(prompts), expected, strict=True):
        assert torch.equal(layer(queries), values)
    assert PromptAttentions([]).select(prompts) == []
