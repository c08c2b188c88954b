"""Building the transformers model from a checkpoint, strictly: every weight comes from the file, or nothing runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from sam3lt_ray.engine.checkpoint import Checkpoint, weight_files
from sam3lt_ray.errors import CheckpointError

_SHOWN: Final = 8  # keys named in a message; a renamed encoder has hundreds


def load_model(checkpoint: Checkpoint) -> Any:
    """Loads a checkpoint as transformers' own model, on the CPU, in float32 and in evaluation mode.

    A key that transformers itself declares ignorable (the video model's tracker) may stand in the file; any other key
    that is missing, unexpected or of another shape is refused: transformers would go on with random weights.

    Raises:
        CheckpointError: The weights do not belong to the architecture, or cannot be read.
    """
    from safetensors import SafetensorError

    weight_files(checkpoint.folder, checkpoint.name)
    model_class = _model_class(checkpoint.model_type)
    config = _detector_config(checkpoint, model_class)
    try:
        with _quiet_transformers():
            model, info = model_class.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # so that they are reported, all of them, and refused below
                output_loading_info=True,
            )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {checkpoint.name!r}: its weights cannot be read: {error}") from None
    _refuse_differences(checkpoint, info)
    return model.eval().requires_grad_(False)


def _model_class(model_type: str) -> Any:
    # From their modules: the package-level names of SAM3 are placeholders where torchvision is not installed, although
    # only box prompts need it.
    if model_type == "sam3":
        from transformers.models.sam3.modeling_sam3 import Sam3Model

        return Sam3Model
    from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

    return Sam3LiteTextModel


def _detector_config(checkpoint: Checkpoint, model_class: Any) -> Any:
    stated = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    detector = stated.get("detector_config")
    try:
        with _quiet_transformers():
            config = model_class.config_class.from_dict(detector if isinstance(detector, dict) else stated)
    except Exception as error:  # transformers' strict dataclasses raise classes of their own
        raise CheckpointError(f"checkpoint {checkpoint.name!r}: its config.json is not valid: {error}") from None
    if config.image_size not in (checkpoint.image_size, [checkpoint.image_size] * 2):
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: its config.json says image size {config.image_size} in one place and "
            f"{checkpoint.image_size} in another."
        )
    return config


def _refuse_differences(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    findings = (
        ("missing (the model would start them at random)", sorted(info["missing_keys"])),
        ("not known to this model (renamed?)", sorted(info["unexpected_keys"])),
        ("of another shape", sorted(_describe_mismatch(entry) for entry in info["mismatched_keys"])),
        ("unreadable", [str(message) for message in info.get("error_msgs", ())]),
    )
    lines = [f"  {len(keys)} {what}: {_enumerate(keys)}" for what, keys in findings if keys]
    if lines:
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r}: its weights do not belong to a {checkpoint.model_type} model of this "
            "transformers version, and labels made with it would be wrong.\n" + "\n".join(lines)
        )


def _describe_mismatch(entry: object) -> str:
    if isinstance(entry, tuple) and len(entry) == 3:
        name, in_file, in_model = entry
        return f"{name} (file {list(in_file)}, model {list(in_model)})"
    return str(entry)


def _enumerate(keys: Iterable[str]) -> str:
    names = list(keys)
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no load report: differences are raised here as errors, with names."""
    from transformers.utils import logging as untyped_logging

    logging: Any = untyped_logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
