"""The cluster launcher's YAML against the schema that Ray's wheel has, and the job that goes with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from sam3lt_ray.config.load import load_config
from tests.unit.infra.manifests import INFRA

CLUSTER: dict[str, Any] = yaml.safe_load((INFRA / "ray" / "cluster-aws.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))


def test_the_launcher_takes_it() -> None:
    jsonschema.validate(CLUSTER, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(CLUSTER | {"max_worker": 1}, SCHEMA)


def test_types_fit_together() -> None:
    types = CLUSTER["available_node_types"]
    head = types.pop(CLUSTER["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in " ".join(CLUSTER["head_start_ray_commands"])
    assert head["max_workers"] == 0
    assert sum(node["max_workers"] for node in types.values()) <= CLUSTER["max_workers"]
    for node in types.values():
        assert 0 <= node["min_workers"] <= node["max_workers"]
    types[CLUSTER["head_node_type"]] = head


def test_the_job_asks_for_what_the_cluster_may_have() -> None:
    compute = load_config([INFRA / "ray" / "job.yaml"]).config.compute
    (worker,) = [node for name, node in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]]
    assert (compute.device, compute.actors) == ("cuda", worker["max_workers"])
    assert compute.cpus_per_actor == worker["resources"]["CPU"] - 1


def test_the_development_environment_is_one_that_ray_takes() -> None:
    from ray.runtime_env import RuntimeEnv

    content = yaml.safe_load((INFRA / "ray" / "runtime-env.yaml").read_text(encoding="utf-8"))
    RuntimeEnv(**content)
    assert (INFRA.parent / content["working_dir"]).is_dir()


def test_every_example_names_the_same_image_and_run() -> None:
    texts = [path.read_text(encoding="utf-8") for path in INFRA.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    images = {name for text in texts for name in re.findall(r"registry\.example\.com/[\w.:/-]+-gpu", text)}
    assert len(images) == 1
    runs = {name for text in texts for name in re.findall(r"s3://my-bucket/runs/[\w-]+", text)}
    assert runs == {"s3://my-bucket/runs/street-2026", "s3://my-bucket/runs/cpu-dev"}
