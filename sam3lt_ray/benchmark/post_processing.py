"""transformers' own post-processing, where its class cannot be imported.

Sam3ImageProcessor needs torchvision, although its post-processing does not use it. The method is therefore compiled
from transformers' own source file, unchanged.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

_METHOD: Final = "post_process_instance_segmentation"
_NAMES: Final = ("_scale_boxes", _METHOD)


def post_process_instance_segmentation(outputs: Any, **arguments: Any) -> list[dict[str, torch.Tensor]]:
    """Sam3ImageProcessor.post_process_instance_segmentation, from transformers' source.

    Args:
        outputs: The model's, or anything with ``pred_logits``, ``pred_boxes``, ``pred_masks`` and ``presence_logits``.
        arguments: The method's: ``threshold``, ``mask_threshold`` and ``target_sizes``.

    Returns:
        One dictionary per row of the batch: ``scores``, ``boxes`` and ``masks``.
    """
    results: list[dict[str, torch.Tensor]] = _compiled()(None, outputs, **arguments)
    return results


@cache
def _compiled() -> Any:
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        raise RuntimeError("transformers is not installed as a package with source files")
    path = Path(spec.origin).parent / "models" / "sam3" / "image_processing_sam3.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    wanted: list[ast.stmt] = [
        node for body in bodies for node in body if isinstance(node, ast.FunctionDef) and node.name in _NAMES
    ]
    if len(wanted) != len(_NAMES):
        raise RuntimeError(f"{path} does not have {' and '.join(_NAMES)} once each; another version of transformers?")
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), namespace)
    return namespace[_METHOD]
