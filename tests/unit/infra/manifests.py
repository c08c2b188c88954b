"""What is in infra/, rendered and read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

INFRA = Path(__file__).parents[3] / "infra"
OVERLAYS = sorted(path.name for path in (INFRA / "kuberay" / "overlays").iterdir())
_KUBECTL = Path(sys.executable).with_name("kubectl")  # comes with a package of the development tools


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """What kubectl makes of a folder.

    Raises:
        AssertionError: With what kubectl said.
    """
    done = subprocess.run([_KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecated fields are mistakes to come
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


@cache
def overlay(name: str) -> tuple[dict[str, Any], ...]:
    """The manifests of an overlay as it stands."""
    return tuple(kustomize(INFRA / "kuberay" / "overlays" / name))


def overlay_with_values(name: str, values: Mapping[str, str], folder: Path) -> list[dict[str, Any]]:
    """The manifests of an overlay in a copy whose values were changed, and nothing else."""
    copy = folder / "kuberay"
    shutil.copytree(INFRA / "kuberay", copy)
    file = values_file(copy, name)
    manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert manifest["data"].keys() == values.keys()
    file.write_text(yaml.safe_dump(manifest | {"data": dict(values)}), encoding="utf-8")
    return kustomize(copy / "overlays" / name)


def values_file(kuberay: Path, name: str) -> Path:
    """An overlay's own values, or those of all."""
    own = kuberay / "overlays" / name / "values.yaml"
    return own if own.exists() else kuberay / "values" / "values.yaml"


def job_spec(manifests: list[dict[str, Any]] | tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The RayJob's spec, which a RayCronJob has as its template."""
    (found,) = [
        manifest["spec"].get("jobTemplate", manifest["spec"])
        for manifest in manifests
        if manifest["apiVersion"] == "ray.io/v1"
    ]
    return found


def pod_templates(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Pod template of the head and of each worker group."""
    cluster = spec["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}
