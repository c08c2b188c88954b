from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.engine.loading import load_model
from sam3lt_ray.errors import CheckpointError
from tests.checkpoints import Variant, make_random_checkpoint

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("originals")
    variants: tuple[Variant, ...] = ("s1", "sam3")
    return {variant: make_random_checkpoint(base / variant, variant) for variant in variants}


@pytest.fixture
def with_weights(originals: dict[str, Path], tmp_path: Path) -> Callable[[str, Callable[[State], State]], Path]:
    def make(variant: str, edit: Callable[[State], State]) -> Path:
        folder = Path(shutil.copytree(originals[variant], tmp_path / variant))
        state = edit(load_file(folder / "model.safetensors"))
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


Edit = Callable[[str, Callable[[State], State]], Path]


@pytest.mark.parametrize("variant", ["s1", "sam3"])
def test_every_weight_comes_from_the_file(variant: str, originals: dict[str, Path]) -> None:
    model = load_model(resolve_checkpoint(str(originals[variant])))
    loaded, stored = model.state_dict(), load_file(originals[variant] / "model.safetensors")
    assert loaded.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(loaded[name], tensor), name
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_files_are_loaded_as_float32(with_weights: Edit) -> None:
    folder = with_weights(
        "s1",
        lambda state: {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
    )
    assert {parameter.dtype for parameter in load_model(resolve_checkpoint(str(folder))).parameters()} == {
        torch.float32
    }


@pytest.mark.parametrize("variant", ["s1", "sam3"])
def test_a_renamed_text_encoder_is_refused(variant: str, with_weights: Edit) -> None:
    def rename(state: State) -> State:
        return {name.replace("text_encoder.", "language_tower."): tensor for name, tensor in state.items()}

    with pytest.raises(CheckpointError) as caught:
        load_model(resolve_checkpoint(str(with_weights(variant, rename))))
    assert "missing (the model would start them at random): text_encoder." in caught.value.message
    assert "not known to this model (renamed?): language_tower." in caught.value.message
    assert " more" in caught.value.message


def test_one_missing_weight_is_named(with_weights: Edit) -> None:
    def drop(state: State) -> State:
        del state["detr_decoder.presence_head.layer2.weight"]
        return state

    with pytest.raises(CheckpointError, match=r"1 missing .*: detr_decoder\.presence_head\.layer2\.weight"):
        load_model(resolve_checkpoint(str(with_weights("s1", drop))))


def test_one_unexpected_weight_is_named(with_weights: Edit) -> None:
    with pytest.raises(CheckpointError, match=r"1 not known to this model .*: surprise\.weight"):
        load_model(
            resolve_checkpoint(str(with_weights("s1", lambda state: {**state, "surprise.weight": torch.ones(2)})))
        )


def test_a_weight_of_another_shape_is_named(with_weights: Edit) -> None:
    def widen(state: State) -> State:
        return {**state, "text_projection.bias": torch.zeros(33)}

    with pytest.raises(
        CheckpointError, match=r"1 of another shape: text_projection\.bias \(file \[33\], model \[32\]\)"
    ):
        load_model(resolve_checkpoint(str(with_weights("s1", widen))))


def test_a_video_checkpoint_is_loaded_without_its_tracker(with_weights: Edit, originals: dict[str, Path]) -> None:
    def as_video(state: State) -> State:
        inside = {f"detector_model.{name}": tensor for name, tensor in state.items()}
        return {**inside, "tracker_model.memory.weight": torch.ones(3), "tracker_neck.conv.weight": torch.ones(3)}

    folder = with_weights("sam3", as_video)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "sam3_video", "detector_config": config}))
    loaded = load_model(resolve_checkpoint(str(folder))).state_dict()
    for name, tensor in load_file(originals["sam3"] / "model.safetensors").items():
        assert torch.equal(loaded[name], tensor), name


def test_a_damaged_file_is_refused(originals: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals["s1"], tmp_path / "cut"))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(resolve_checkpoint(str(folder)))


def test_a_config_that_makes_no_model_is_refused(originals: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals["s1"], tmp_path / "config"))
    config = json.loads((folder / "config.json").read_text())
    config["detr_decoder_config"]["num_queries"] = "many"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json is not valid.*num_queries"):
        load_model(resolve_checkpoint(str(folder)))


def test_loading_is_silent_and_leaves_logging_as_it_was(
    originals: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    root_level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(resolve_checkpoint(str(originals["sam3"])))
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before
    assert logging.getLogger().level == root_level
    assert capfd.readouterr() == ("", "")
