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
README = (INFRA / "README.md").read_text(encoding="utf-8")
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


def test_machines_have_a_driver_that_the_image_can_work_with() -> None:
    """Without an ImageId Ray takes an AMI of its own, which is years old."""
    images = {node["node_config"].get("ImageId") for node in CLUSTER["available_node_types"].values()}
    assert images == {"ami-FILL-ME-IN"}  # no AMI is in all regions, and old ones go
    (command,) = re.findall(r"^sed .*FILL-ME-IN.*$", README, re.MULTILINE)
    assert "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id" in command
    assert command.partition("  #")[0].endswith("infra/ray/cluster-aws.yaml")
    assert CLUSTER["auth"]["ssh_user"] == "ubuntu"  # that of this AMI


def test_the_roles_are_those_of_the_machines() -> None:
    resources = yaml.safe_load((INFRA / "ray" / "iam.yaml").read_text(encoding="utf-8"))["Resources"]
    profiles = {
        item["Properties"]["InstanceProfileName"]: resources[item["Properties"]["Roles"][0]["Ref"]]["Properties"]
        for item in resources.values()
        if item["Type"] == "AWS::IAM::InstanceProfile"
    }
    nodes = CLUSTER["available_node_types"]
    names = {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in nodes.items()}
    assert set(names.values()) == profiles.keys()
    assert all(role["ManagedPolicyArns"] == [{"Ref": "Data"}] for role in profiles.values())

    head = profiles[names.pop(CLUSTER["head_node_type"])]
    (worker_profile,) = names.values()
    machines, passing = head["Policies"][0]["PolicyDocument"]["Statement"]
    worker = passing["Resource"]["Fn::GetAtt"][0]
    assert (passing["Action"], resources[worker]["Properties"]) == ("iam:PassRole", profiles[worker_profile])
    assert "Policies" not in profiles[worker_profile]  # workers make no machines
    asked = (Path(ray.__file__).parent / "autoscaler/_private/aws/node_provider.py").read_text(encoding="utf-8")
    calls = set(
        re.findall(r"\.((?:create|describe|start|stop|terminate)_(?:instances|instance_types|images|tags))\b", asked)
    )
    assert {"create_instances", "create_tags", "terminate_instances"} <= calls
    actions = {call.title().replace("_", "").replace("CreateInstances", "RunInstances") for call in calls}
    assert {f"ec2:{action}" for action in actions} <= set(machines["Action"])


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
