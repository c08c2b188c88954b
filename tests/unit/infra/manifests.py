"""What is in infra/, rendered and read."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from sam3lt_ray.config.load import LoadedConfig, load_config
from tests.command_lines import own_arguments, parse

INFRA = Path(__file__).parents[3] / "infra"
ALL_OVERLAYS = sorted(path.name for path in (INFRA / "kuberay" / "overlays").iterdir())
OVERLAYS = [name for name in ALL_OVERLAYS if name != "plan"]  # those that start Ray
ROOT = INFRA.parent
IN_THE_IMAGE = "/opt/sam3lt/"  # where the Dockerfile puts the repository
KUBERNETES_VERSIONS = ("1.30", "1.37")
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
    """The manifests of an overlay in a copy whose values were changed, all that it has, and nothing else."""
    copy = folder / "kuberay"
    shutil.copytree(INFRA / "kuberay", copy)
    file = values_file(copy, name)
    manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert manifest["data"].keys() <= values.keys()
    changed = {key: values[key] for key in manifest["data"]}
    file.write_text(yaml.safe_dump(manifest | {"data": changed}), encoding="utf-8")
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


def pods(manifests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The specs of all pods that will be made of them, but the ones that an operator adds of its own."""
    found = []
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "CronJob":
            found.append(spec["jobTemplate"]["spec"]["template"]["spec"])
        elif manifest["kind"] == "Job":
            found.append(spec["template"]["spec"])
        elif manifest["apiVersion"] == "ray.io/v1":
            rayjob = spec.get("jobTemplate", spec)
            templates = (rayjob["submitterPodTemplate"], *pod_templates(rayjob).values())
            found += [template["spec"] for template in templates]
    return found


def expressions(pod: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """What a pod asks of its node's labels: label, operator, values."""
    wanted = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = wanted.get("nodeSelectorTerms", [{"matchExpressions": []}])
    assert len(terms) == 1  # more would be alternatives
    return [(item["key"], item["operator"], item["values"]) for item in terms[0]["matchExpressions"]]


def check_restricted(pod: dict[str, Any]) -> None:
    """What the pod security standard `restricted` asks of a pod."""
    outer = pod.get("securityContext", {})
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        assert own.get("runAsNonRoot", outer.get("runAsNonRoot")) is True
        assert own.get("seccompProfile", outer.get("seccompProfile")) == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}


def check_core_kind(manifest: dict[str, Any]) -> None:
    """A kind without a schema raises as well."""
    _check_core_kind(json.dumps(manifest, sort_keys=True))


@cache
def _check_core_kind(manifest: str) -> None:
    # Overlays share most of what they consist of, and reading the schemas takes long.
    for version in KUBERNETES_VERSIONS:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)


def driver_config(manifests: Any, folder: Path) -> LoadedConfig:
    """The config that the entrypoint's driver would have."""
    (job_map,) = [manifest for manifest in manifests if manifest["metadata"]["name"] == "sam3lt-job"]
    words = shlex.split(job_spec(manifests)["entrypoint"])
    assert words[:2] == ["python", f"{IN_THE_IMAGE}jobs/label.py"]
    arguments = own_arguments(words)
    assert arguments is not None
    options = parse(arguments)
    (mounted,) = options["config"]
    file = folder / mounted.name
    file.write_text(job_map["data"][mounted.name].replace(IN_THE_IMAGE, f"{ROOT}/"), encoding="utf-8")
    return load_config([file], options["overrides"])
