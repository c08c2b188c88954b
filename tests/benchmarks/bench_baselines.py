"""The engine against using transformers directly: the demo checkpoint, the demo's 20 labels, this machine's CPU.

    python -m tests.benchmarks.bench_baselines [--quick] [--json FILE]

Everybody gets the same prepared pixels and the same 2 threads, keeps instances above 0.2, and ends with COCO run
lengths at the image's size; decoding is in nobody's time. They take turns image by image.

- documented: the model's forward for each (image, prompt), its post-processing, pycocotools.
- embeddings reused: image and prompts encoded once, one forward for all prompts together; also documented, and where
  many people stop.
- careful: the model's own parts called one by one, and the mask decoder only for prompts that have an instance.
- engine: this package's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import box_cxcywh_to_xyxy, inverse_sigmoid

from sam3lt_ray.demo.scenes import render_scene
from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.images.resize import resize_for_model
from sam3lt_ray.vocabulary.loading import load_vocabulary
from tests.benchmarks.measuring import finish, load_now, print_table, read_options, spread
from tests.engine_reference import FLOOR, load_both, post_process_instance_segmentation

THREADS = 2
SEED = 6

Size = tuple[int, int]


class Baselines:
    """Three ways of using transformers' model; each returns the number of instances it encoded."""

    def __init__(self, model: Any, ids: torch.Tensor, mask: torch.Tensor) -> None:
        self._model, self._ids, self._mask = model, ids, mask
        self._text = model.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True)

    def documented(self, values: torch.Tensor, size_hw: Size) -> int:
        count = 0
        for prompt in range(len(self._ids)):
            row = slice(prompt, prompt + 1)
            outputs = self._model(pixel_values=values, input_ids=self._ids[row], attention_mask=self._mask[row])
            count += _encode(outputs, size_hw)
        return count

    def embeddings_reused(self, values: torch.Tensor, size_hw: Size) -> int:
        vision = self._for_all_prompts(self._model.get_vision_features(pixel_values=values))
        outputs = self._model(vision_embeds=vision, text_embeds=self._text, attention_mask=self._mask)
        return _encode(outputs, size_hw)

    def careful(self, values: torch.Tensor, size_hw: Size) -> int:
        model, text, text_mask = self._model, self._text.pooler_output, self._mask.bool()
        vision = self._for_all_prompts(model.get_vision_features(pixel_values=values))
        levels, positions = vision.fpn_hidden_states[:-1], vision.fpn_position_encoding[:-1]
        encoded = model.detr_encoder(
            vision_features=[levels[-1]], text_features=text, vision_pos_embeds=[positions[-1]], text_mask=text_mask
        )
        decoded = model.detr_decoder(
            vision_features=encoded.last_hidden_state,
            text_features=encoded.text_features,
            vision_pos_encoding=encoded.pos_embeds_flattened,
            text_mask=text_mask,
            spatial_shapes=encoded.spatial_shapes,
        )
        states = decoded.intermediate_hidden_states[-1:]
        boxes = (inverse_sigmoid(decoded.reference_boxes[-1:]) + model.detr_decoder.box_head(states)).sigmoid()
        logits = model.dot_product_scoring(
            decoder_hidden_states=states, text_features=encoded.text_features, text_mask=text_mask
        ).squeeze(-1)[-1]
        presence = decoded.presence_logits[-1]
        some = ((logits.sigmoid() * presence.sigmoid()) > FLOOR).any(dim=1)
        if not some.any():
            return 0
        masks = model.mask_decoder(
            decoder_queries=states[-1][some],
            backbone_features=[level[some] for level in levels],
            encoder_hidden_states=encoded.last_hidden_state[some],
            prompt_features=text[some],
            prompt_mask=text_mask[some],
        ).pred_masks
        outputs = SimpleNamespace(
            pred_masks=masks,
            pred_boxes=box_cxcywh_to_xyxy(boxes)[-1][some],
            pred_logits=logits[some],
            presence_logits=presence[some],
        )
        return _encode(outputs, size_hw)

    def _for_all_prompts(self, vision: Any) -> Any:
        """One image's features as a batch with a row for each prompt, without copies."""
        vision.fpn_hidden_states = tuple(level.expand(len(self._ids), -1, -1, -1) for level in vision.fpn_hidden_states)
        vision.fpn_position_encoding = tuple(
            level.expand(len(self._ids), -1, -1, -1) for level in vision.fpn_position_encoding
        )
        return vision


def _encode(outputs: Any, size_hw: Size) -> int:
    """transformers' post-processing, then run lengths; the number of instances."""
    results = post_process_instance_segmentation(
        outputs, threshold=FLOOR, mask_threshold=0.5, target_sizes=[size_hw] * len(outputs.pred_logits)
    )
    count = 0
    for result in results:
        for mask in result["masks"].numpy():
            coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            count += 1
    return count


def main() -> None:
    options, load_before = read_options(__doc__), load_now()
    num_images = 2 if options.quick else 8
    prompts = [prompt.text for prompt in load_vocabulary("demo").prompts]
    loaded = load_both(resolve_checkpoint("demo"), prompts)
    torch.set_num_threads(THREADS)
    with torch.inference_mode():
        ids, mask = (torch.from_numpy(array) for array in PromptTokenizer(loaded.checkpoint).encode(prompts))
        baselines = Baselines(loaded.model, ids, mask)

        def engine(pixels: Any, size_hw: Size) -> int:
            return len(loaded.segmenter.segment([pixels], [size_hw])[0].detections)

        ways: dict[str, Callable[[Any, Size], int]] = {
            "documented": baselines.documented,
            "embeddings reused": baselines.embeddings_reused,
            "careful": baselines.careful,
            "engine": engine,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        instances = dict.fromkeys(ways, 0)
        for number in range(num_images + 1):
            scene = render_scene(SEED, number)
            pixels = resize_for_model(scene.image_hwc(), loaded.checkpoint.image_size)
            values = ((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
            for name, way in ways.items():
                started_s = time.perf_counter()
                found = way(pixels if name == "engine" else values, (scene.height, scene.width))
                if number:  # the first image is for warming up
                    seconds[name].append(time.perf_counter() - started_s)
                    instances[name] += found
    rows, figures = [], {}
    for name, values_s in seconds.items():
        times = spread([1000 * value for value in values_s])
        ratio = spread([one / other for one, other in zip(values_s, seconds["engine"], strict=True)])
        rows.append([name, times.text(), ratio.text(), str(instances[name])])
        figures[name] = {"ms_per_image": times.to_json(), "over_engine": ratio.to_json(), "instances": instances[name]}
    print_table(["20 labels", "ms/image", "times the engine's", "instances"], rows)
    finish(options, {"images": num_images, "ways": figures}, load_before)


if __name__ == "__main__":
    main()
