"""Finding a checkpoint and reading what it says about itself; needs neither torch nor transformers.

A checkpoint is a local folder, a Hugging Face Hub id with a revision, or "demo", the one in this package. Only
safetensors weights are accepted and no code from a checkpoint is ever run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sam3lt_ray
from sam3lt_ray.engine.hub import download_snapshot
from sam3lt_ray.errors import CheckpointError

DEMO: Final = "demo"
MODEL_TYPES: Final = ("sam3_lite_text", "sam3")
PROMPT_LENGTH: Final = 32  # what Sam3Processor pads and limits prompts to

_DEFAULT_IMAGE_SIZE: Final = 1008  # of transformers' Sam3ViTConfig; a config.json may leave defaults out
_DEFAULT_CLIP_POSITIONS: Final = 32  # of transformers' Sam3Config
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_HASHED_SUFFIXES: Final = (".json", ".safetensors", ".txt", ".model")
_LFS_MARK: Final = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine.

    Attributes:
        folder: Where its files are.
        name: As asked for: the hub id, the folder or "demo".
        revision: Commit on the hub; None for folders.
        model_type: "sam3_lite_text" or "sam3".
        image_size: Side of the square input in pixels.
        max_tokens: The most tokens a prompt may have, begin and end marks included; prompts are padded to it.
        image_mean: Per channel, of values in [0, 1].
        image_std: Per channel.
        files: sha256 of every file that decides what the model says, by name.
        weight_bytes: Size of the weight files together.
    """

    folder: Path
    name: str
    revision: str | None
    model_type: str
    image_size: int
    max_tokens: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    files: dict[str, str]
    weight_bytes: int


def resolve_checkpoint(checkpoint: str, revision: str | None = None) -> Checkpoint:
    """Finds a checkpoint, downloads it if need be, and checks everything that can be checked without loading it.

    Args:
        checkpoint: "demo", a local folder, or a hub id such as "yonigozlan/sam3-litetext-s0".
        revision: Branch, tag or commit on the hub; with a commit that is already here the network is not used.

    Raises:
        CheckpointError: Not found, no safetensors, a model type that is not supported, or damaged files.
    """
    folder, commit = _locate(checkpoint, revision)
    config = _read_json(folder / "config.json", checkpoint)
    detector = _detector_config(config)
    model_type = _model_type(config, checkpoint)
    weights = weight_files(folder, checkpoint)
    image_size = _image_size(detector, checkpoint)
    mean, std = _normalisation(folder, image_size, checkpoint)
    return Checkpoint(
        folder=folder,
        name=checkpoint,
        revision=commit,
        model_type=model_type,
        image_size=image_size,
        max_tokens=_max_tokens(folder, model_type, detector, checkpoint),
        image_mean=mean,
        image_std=std,
        files=_hash_files(folder, weights),
        weight_bytes=sum(path.stat().st_size for path in weights),
    )


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
        CheckpointError: There are none, one is missing, or one is a Git LFS pointer instead of weights.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        files = [single]
    elif index.is_file():
        files = [folder / file_name for file_name in _indexed_files(index, name)]
    else:
        pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(
            path.name for path in folder.glob("*.pt*")
        )
        found = f" It has {pickled[0]}, which is a pickle and is never loaded." if pickled else ""
        raise CheckpointError(
            f"checkpoint {name!r} has no model.safetensors in {folder}.{found} "
            "Save it with save_pretrained(..., safe_serialization=True) and use that folder."
        )
    for path in files:
        if not path.is_file():
            raise CheckpointError(
                f"checkpoint {name!r} is incomplete: {path.name}, named in its index, is missing in {folder}."
            )
        with path.open("rb") as file:
            if file.read(len(_LFS_MARK)) == _LFS_MARK:
                raise CheckpointError(
                    f"checkpoint {name!r}: {path.name} is a Git LFS pointer, not weights. "
                    f"Run `git lfs pull` in {folder}."
                )
    return files


def _indexed_files(index: Path, name: str) -> list[str]:
    """Names of the weight files that an index tells of: an index is data from elsewhere, and could name any file."""
    weight_map = _read_json(index, name).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names:
        raise CheckpointError(f"checkpoint {name!r}: {index.name} names no weight files.")
    for file_name in names:
        if not isinstance(file_name, str) or "/" in file_name or not file_name.endswith(".safetensors"):
            raise CheckpointError(
                f"checkpoint {name!r}: {index.name} names {file_name!r}; expected .safetensors files beside it. "
                "Other formats can hold code and are never loaded."
            )
    return sorted(set(names))


def _locate(checkpoint: str, revision: str | None) -> tuple[Path, str | None]:
    if checkpoint == DEMO:
        folder = Path(sam3lt_ray.__file__).parent / "demo" / "checkpoint"
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"the demo checkpoint is missing from this installation ({folder}). Install the package anew."
            )
        return folder, None
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder, None
    if folder.exists():
        raise CheckpointError(
            f"checkpoint {checkpoint!r} is a file; expected the folder that holds config.json and model.safetensors."
        )
    if not _HUB_ID.fullmatch(checkpoint) or checkpoint.startswith("."):
        raise CheckpointError(
            f"there is no folder {checkpoint!r}, and it is no hub id either (owner/name). "
            f'Give a folder with config.json and model.safetensors, a hub id, or "{DEMO}".'
        )
    snapshot = download_snapshot(checkpoint, revision)
    return snapshot, snapshot.name


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint {name!r} has no {path.name} in {path.parent}; it is no transformers checkpoint."
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {name!r}: {path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"checkpoint {name!r}: {path} does not hold a JSON object.")
    return value


def _detector_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The image model's part; the published SAM3 weights come as a video model that contains it."""
    detector = config.get("detector_config")
    return detector if isinstance(detector, dict) else config


def _model_type(config: Mapping[str, Any], name: str) -> str:
    stated = str(config.get("model_type", "none stated"))
    inner = str(_detector_config(config).get("model_type", stated.removesuffix("_video")))
    if inner not in MODEL_TYPES:
        raise CheckpointError(
            f"checkpoint {name!r} is of model type {stated!r}; expected {' or '.join(MODEL_TYPES)} "
            "(or a video model that contains one)."
        )
    return inner


def _section(config: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in path:
        value = config.get(key)
        config = value if isinstance(value, dict) else {}
    return config


def _image_size(detector: Mapping[str, Any], name: str) -> int:
    size = _section(detector, "vision_config", "backbone_config").get("image_size", _DEFAULT_IMAGE_SIZE)
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise CheckpointError(f"checkpoint {name!r} wants images of size {size}; only square images are supported.")
    return size


def _max_tokens(folder: Path, model_type: str, detector: Mapping[str, Any], name: str) -> int:
    """Sam3Processor's 32, or less where the tokenizer or CLIP's position table says so."""
    limits = [PROMPT_LENGTH]
    if (folder / "tokenizer_config.json").is_file():
        stated = _read_json(folder / "tokenizer_config.json", name).get("model_max_length")
        if isinstance(stated, int) and stated > 0:
            limits.append(stated)
    if model_type == "sam3":
        positions = _section(detector, "text_config").get("max_position_embeddings", _DEFAULT_CLIP_POSITIONS)
        limits.append(int(positions))
    return min(limits)


def _normalisation(
    folder: Path, image_size: int, name: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    settings: Mapping[str, Any] = {}
    for file_name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / file_name).is_file():
            settings = _read_json(folder / file_name, name)
            settings = settings.get("image_processor", settings)
            break
    size = settings.get("size", {})
    height = size.get("height", image_size) if isinstance(size, dict) else size
    if height != image_size:
        raise CheckpointError(
            f"checkpoint {name!r}: its processor resizes images to {height}, but the model takes {image_size}."
        )
    return _triple(settings.get("image_mean")), _triple(settings.get("image_std"))


def _triple(values: object) -> tuple[float, float, float]:
    if isinstance(values, (list, tuple)) and len(values) == 3:
        red, green, blue = (float(value) for value in values)
        return red, green, blue
    return 0.5, 0.5, 0.5  # Sam3ImageProcessor's own


def _hash_files(folder: Path, weights: list[Path]) -> dict[str, str]:
    kept = {path.name for path in weights}
    hashes = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix not in _HASHED_SUFFIXES:
            continue
        if path.suffix == ".safetensors" and path.name not in kept:
            continue
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
