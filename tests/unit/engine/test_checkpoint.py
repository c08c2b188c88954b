from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors as hub_errors

from sam3lt_ray.engine.checkpoint import resolve_checkpoint
from sam3lt_ray.errors import CheckpointError
from tests.checkpoints import IMAGE_SIZE, make_random_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("original") / "sam3", "sam3")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_a_folder_tells_about_itself(folder: Path) -> None:
    found = resolve_checkpoint(str(folder))
    assert (found.folder, found.name, found.revision) == (folder, str(folder), None)
    assert (found.model_type, found.image_size, found.max_tokens) == ("sam3", IMAGE_SIZE, 32)
    assert found.image_mean == found.image_std == (0.5, 0.5, 0.5)
    assert found.weight_bytes == (folder / "model.safetensors").stat().st_size
    for name in ("config.json", "model.safetensors", "tokenizer_config.json", "preprocessor_config.json"):
        assert found.files[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_files_that_are_not_the_models_do_not_count(folder: Path) -> None:
    before = resolve_checkpoint(str(folder)).files
    (folder / "README.md").write_text("hello")
    (folder / "other.safetensors").write_bytes(b"not loaded")
    assert resolve_checkpoint(str(folder)).files == before
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b" ")
    assert resolve_checkpoint(str(folder)).files != before


def test_demo_is_part_of_the_package() -> None:
    found = resolve_checkpoint("demo")
    assert (found.name, found.model_type, found.revision) == ("demo", "sam3_lite_text", None)
    assert found.files.keys() >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_normalisation_is_read_from_the_processor(folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", lambda value: value.update(image_mean=[0.1, 0.2, 0.3]))
    assert resolve_checkpoint(str(folder)).image_mean == (0.1, 0.2, 0.3)
    nested = {"image_processor": {"image_std": [0.2, 0.3, 0.4]}, "processor_class": "Sam3Processor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert resolve_checkpoint(str(folder)).image_std == (0.2, 0.3, 0.4)


@pytest.mark.parametrize(("stated", "expected"), [(8, 8), (77, 32), (10**30, 32), (None, 32)])
def test_prompt_length_is_the_processors_unless_the_tokenizer_says_less(
    folder: Path, stated: int | None, expected: int
) -> None:
    edit_json(folder / "tokenizer_config.json", lambda value: value.update(model_max_length=stated))
    assert resolve_checkpoint(str(folder)).max_tokens == expected


def test_prompt_length_is_limited_by_clips_positions(folder: Path) -> None:
    edit_json(folder / "config.json", lambda value: value["text_config"].update(max_position_embeddings=16))
    assert resolve_checkpoint(str(folder)).max_tokens == 16


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=rf"no model\.safetensors.*{name}.*pickle"):
        resolve_checkpoint(str(folder))


def test_a_missing_part_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"incomplete: model-00002-of-00002\.safetensors"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize(
    "named", ["pytorch_model.bin", "../outside.safetensors", "/etc/outside.safetensors", "sub/x.safetensors", 7]
)
def test_an_index_names_safetensors_beside_it_and_nothing_else(folder: Path, named: object) -> None:
    (folder / "model.safetensors").unlink()
    for path in (folder / "pytorch_model.bin", folder.parent / "outside.safetensors"):
        path.write_bytes(b"x")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": named}}))
    with pytest.raises(CheckpointError, match=r"names .*; expected \.safetensors files beside it"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": "x"}])
def test_an_index_that_names_nothing_is_refused(folder: Path, index: dict[str, Any]) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names no weight files"):
        resolve_checkpoint(str(folder))


def test_a_config_nested_without_end_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        resolve_checkpoint(str(folder))


def test_weights_in_parts_are_as_large_as_all_of_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name, size in (("1.safetensors", 700), ("2.safetensors", 50), ("left-over.safetensors", 9)):
        (folder / name).write_bytes(bytes(size))
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve_checkpoint(str(folder)).weight_bytes == 750


def test_a_git_lfs_pointer_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a Git LFS pointer.*git lfs pull"):
        resolve_checkpoint(str(folder))


def test_another_model_type_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", lambda value: value.update(model_type="sam2"))
    with pytest.raises(CheckpointError, match="'sam2'; expected sam3_lite_text or sam3"):
        resolve_checkpoint(str(folder))


def test_a_video_config_is_accepted_for_its_detector(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    video = {"model_type": "sam3_video", "detector_config": config, "tracker_config": {}}
    (folder / "config.json").write_text(json.dumps(video))
    found = resolve_checkpoint(str(folder))
    assert (found.model_type, found.image_size) == ("sam3", IMAGE_SIZE)


def test_defaults_left_out_of_a_config_are_transformers_defaults(folder: Path) -> None:
    def drop(value: dict[str, Any]) -> None:
        del value["vision_config"]
        del value["text_config"]

    edit_json(folder / "config.json", drop)
    (folder / "preprocessor_config.json").unlink()
    found = resolve_checkpoint(str(folder))
    assert (found.image_size, found.max_tokens) == (1008, 32)


def test_sizes_that_contradict_each_other_are_refused(folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", lambda value: value["size"].update(height=1008, width=1008))
    with pytest.raises(CheckpointError, match=f"resizes images to 1008, but the model takes {IMAGE_SIZE}"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [("no/such/folder", "no folder"), ("nothing", "no folder"), ("./nothing", "no folder"), ("/no/such", "no folder")],
)
def test_neither_folder_nor_hub_id(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint(name)


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_checkpoint(str(folder / "model.safetensors"))


def test_damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        resolve_checkpoint(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        resolve_checkpoint(str(folder))


class FakeHub:
    """Stands in for huggingface_hub.snapshot_download."""

    def __init__(self, snapshot: Path, *, here: bool, error: Exception | None = None) -> None:
        self.snapshot, self.here, self.error = snapshot, here, error
        self.calls: list[dict[str, Any]] = []

    def __call__(self, repository: str, **arguments: Any) -> str:
        self.calls.append({"repository": repository, **arguments})
        if arguments["local_files_only"] and not self.here:
            raise hub_errors.LocalEntryNotFoundError("not here")
        if not arguments["local_files_only"] and self.error:
            raise self.error
        return str(self.snapshot)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> FakeHub:
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    return hub


def test_hub_commit_that_is_here_needs_no_network(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Path(shutil.copytree(original, tmp_path / COMMIT))
    hub = use_hub(monkeypatch, FakeHub(snapshot, here=True, error=AssertionError("asked the network")))
    found = resolve_checkpoint("owner/name", COMMIT)
    assert (found.name, found.revision, found.folder) == ("owner/name", COMMIT, snapshot)
    assert len(hub.calls) == 1


def test_hub_branch_is_resolved_to_its_commit(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Path(shutil.copytree(original, tmp_path / COMMIT))
    hub = use_hub(monkeypatch, FakeHub(snapshot, here=False))
    assert resolve_checkpoint("owner/name", "main").revision == COMMIT
    assert [call["revision"] for call in hub.calls] == ["main"]
    assert not any("bin" in pattern or "py" in pattern for pattern in hub.calls[0]["allow_patterns"])


def hub_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "from the hub")
    return error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (hub_errors.GatedRepoError, "accept its terms"),
        (hub_errors.RevisionNotFoundError, "no revision 'v9'"),
        (hub_errors.RepositoryNotFoundError, "no such model on the hub and no such local folder"),
        (hub_errors.LocalEntryNotFoundError, "cannot be reached"),
    ],
)
def test_hub_failures_are_explained(
    kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, FakeHub(tmp_path, here=False, error=hub_error(kind)))
    with pytest.raises(CheckpointError, match=f"owner/name.*{message}"):
        resolve_checkpoint("owner/name", "v9")


def test_resolving_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from sam3lt_ray.engine.checkpoint import resolve_checkpoint; resolve_checkpoint('demo'); "
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
