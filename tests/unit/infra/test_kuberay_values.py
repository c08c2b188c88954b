"""What a user changes: values in one place, nodes that can be made for them, a price and a first look."""

from __future__ import annotations

import copy
import re
import runpy
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler.v2.instance_manager import config as autoscaler_config
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import (
    NodeKind,
    ResourceDemandScheduler,
    ResourceRequestSource,
    SchedulingNode,
    SchedulingNodeStatus,
)
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from tests.command_lines import own_arguments, parse
from tests.unit.infra.manifests import (
    INFRA,
    OVERLAYS,
    check_core_kind,
    driver_config,
    expressions,
    job_spec,
    overlay,
    overlay_with_values,
    pod_templates,
    pods,
)
from tests.unit.infra.ray_kinds import RayJobSpec

VALUES = {
    "image": "example.org/other@sha256:" + "0" * 64,
    "run_output": "s3://other/runs/here & there",
    "input_uri": "s3://other/shards/",
    "gpu_label": "cloud.google.com/gke-accelerator",
    "gpu_type": "nvidia-l4",
    "gpus": "7",
    "spot_label": "cloud.google.com/gke-spot",
    "spot_value": "true",  # a text, which YAML takes for something else
}
FIRST_LOOK = "first-look"  # one GPU, whatever the values say


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_values_stand_in_one_place(name: str, tmp_path: Path) -> None:
    manifests = overlay_with_values(name, VALUES, tmp_path)
    spec = job_spec(manifests)
    config = driver_config(manifests, tmp_path).config
    assert (config.run.output, config.input.uri) == (VALUES["run_output"], VALUES["input_uri"])
    gpus = 1 if name == FIRST_LOOK else int(VALUES["gpus"])
    assert config.compute.actors == gpus
    templates = pod_templates(spec)
    workers = [template["spec"] for group, template in templates.items() if group != "head"]
    gpu = (VALUES["gpu_label"], "In", [VALUES["gpu_type"]])
    assert all(expressions(pod)[:1] == ([] if name == "cpu-dev" else [gpu]) for pod in workers)
    assert {group["maxReplicas"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]} == {gpus}
    check_nothing_is_left_of_the_examples(manifests)


def check_nothing_is_left_of_the_examples(manifests: list[dict[str, Any]]) -> None:
    assert {pod["containers"][0]["image"] for pod in pods(manifests)} == {VALUES["image"]}
    for pod in pods(manifests):  # a value that is no text any more would be refused
        check_core_kind({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod})
    text = yaml.safe_dump_all(manifests)
    placeholders = r"\b(IMAGE|RUN_OUTPUT|INPUT_URI|[A-Z]+_(?:LABEL|TYPE|VALUE)|registry\.example\.com|my-bucket)\b"
    assert re.findall(placeholders, text) == []


@pytest.mark.parametrize("name", ["gpu", "gpu-spot", "scheduled"])
def test_four_values_are_enough(name: str, tmp_path: Path) -> None:
    four = {key: VALUES[key] for key in ("image", "run_output", "input_uri", "gpu_type")}
    defaults = yaml.safe_load((INFRA / "kuberay" / "values" / "values.yaml").read_text(encoding="utf-8"))["data"]
    assert defaults.keys() == VALUES.keys()
    manifests = overlay_with_values(name, defaults | four, tmp_path)
    check_nothing_is_left_of_the_examples(manifests)
    # Labels that the machine has before it boots: an autoscaler makes no node for a pod that wants any other.
    known = {"node.kubernetes.io/instance-type", "karpenter.sh/capacity-type"}
    assert {label for pod in pods(manifests) for label, _, _ in expressions(pod)} <= known
    assert all("nodeSelector" not in pod for pod in pods(manifests))


def test_the_price_is_asked_for_the_run_that_would_be(tmp_path: Path) -> None:
    manifests = overlay_with_values("plan", VALUES, tmp_path)
    assert not any(manifest["apiVersion"] == "ray.io/v1" for manifest in manifests)
    check_nothing_is_left_of_the_examples(manifests)
    (pod,) = pods(manifests)
    (container,) = pod["containers"]
    arguments = own_arguments([*container["command"], *container["args"]])
    assert arguments is not None
    options = parse(arguments)
    assert options["overrides"] == [f"run.output={VALUES['run_output']}", f"input.uri={VALUES['input_uri']}"]
    assert (options["gpus"], options["calibrate"]) == (int(VALUES["gpus"]), 64)
    assert options["price_per_gpu_hour"] > 0
    (worker,) = [t["spec"] for group, t in pod_templates(job_spec(overlay("gpu"))).items() if group != "head"]
    assert container["resources"] == worker["containers"][0]["resources"]
    assert expressions(pod) == [(VALUES["gpu_label"], "In", [VALUES["gpu_type"]])]
    (volume,) = pod["volumes"]
    (mount,) = container["volumeMounts"]
    assert volume["configMap"]["name"] in {m["metadata"]["name"] for m in manifests if m["kind"] == "ConfigMap"}
    assert [f"{mount['mountPath']}/job.yaml"] == [str(path) for path in options["config"]]


def test_a_first_look_is_the_beginning_of_the_same_run() -> None:
    (look, whole) = (shlex.split(job_spec(overlay(name))["entrypoint"]) for name in (FIRST_LOOK, "gpu"))
    arguments = own_arguments(look)
    assert arguments is not None
    assert parse(arguments)["limit"] == 100
    look = [word for word in look if word not in ("--limit", "100")]
    assert [word for word in look if "actors" not in word] == [word for word in whole if "actors" not in word]
    # They have one name, so that one cannot run beside the other.
    names = {m["metadata"]["name"] for n in (FIRST_LOOK, "gpu") for m in overlay(n) if m["kind"] == "RayJob"}
    assert len(names) == 1


def test_spot_comes_first_and_differs_from_on_demand_in_nothing_else(tmp_path: Path) -> None:
    manifests = overlay_with_values("gpu-spot", VALUES | {"image": "x"}, tmp_path)
    cluster = copy.deepcopy(job_spec(manifests)["rayClusterSpec"])
    on_demand, spot = cluster["workerGroupSpecs"]
    assert spot["priority"] > on_demand["priority"]
    label, value = VALUES["spot_label"], VALUES["spot_value"]
    # A cluster whose other nodes lack the label has on-demand ones all the same.
    assert expressions(cluster["headGroupSpec"]["template"]["spec"]) == [(label, "NotIn", [value])]
    groups = [group["template"]["spec"] for group in (on_demand, spot)]
    assert [expressions(pod)[1:] for pod in groups] == [[(label, "NotIn", [value])], [(label, "In", [value])]]
    assert len({str(expressions(pod)[0]) for pod in groups}) == 1
    for pod in groups:
        del pod["affinity"]
    assert spot["template"]["spec"]["tolerations"].pop() == {
        "key": label,
        "operator": "Exists",
        "effect": "NoSchedule",
    }
    for group in (on_demand, spot):
        for key in ("groupName", "priority"):
            group.pop(key)
        group["template"]["spec"].pop("terminationGracePeriodSeconds")
    assert spot == on_demand
    (plain,) = copy.deepcopy(
        job_spec(overlay_with_values("gpu", VALUES | {"image": "x"}, tmp_path / "gpu"))["rayClusterSpec"][
            "workerGroupSpecs"
        ]
    )
    assert plain["template"]["spec"]["containers"] == on_demand["template"]["spec"]["containers"]


def test_spot_nodes_that_do_not_come_are_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's autoscaler takes a pending pod for a node, and turns to another group only when it gives up on it."""
    file = str(autoscaler_config.__file__)  # reads the environment when it is imported
    default = runpy.run_path(file)["InstanceReconcileConfig"]()
    cluster = RayJobSpec.model_validate(job_spec(overlay("gpu-spot"))).rayClusterSpec
    assert cluster.autoscalerOptions is not None
    for variable in cluster.autoscalerOptions.env:
        monkeypatch.setenv(variable.name, variable.value)
    ours = runpy.run_path(file)["InstanceReconcileConfig"]()
    assert ours.allocate_status_timeout_s == 600 < default.allocate_status_timeout_s


def test_on_demand_takes_over_when_spot_was_given_up_and_hands_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own choice between the two groups."""
    monitor = CloudResourceMonitor()
    cluster = RayJobSpec.model_validate(job_spec(overlay("gpu-spot"))).rayClusterSpec
    configs = [
        autoscaler_config.NodeTypeConfig(
            group.groupName, 0, group.maxReplicas, priority=group.priority, resources={"CPU": 4, "GPU": 1}
        )
        for group in cluster.workerGroupSpecs
    ]

    def next_group() -> str:
        nodes = [
            SchedulingNode.from_node_config(node, SchedulingNodeStatus.TO_LAUNCH, node_kind=NodeKind.WORKER)
            for node in configs
        ]
        best, _, _ = ResourceDemandScheduler._sched_best_node(
            [ResourceRequestUtil.make({"GPU": 1, "CPU": 1})],
            nodes,
            ResourceRequestSource.PENDING_DEMAND,
            monitor.get_resource_availabilities(),
            monitor.get_recoverable_resource_availabilities(),
        )
        return str(best.node_type)

    assert next_group() == "gpu-spot"
    now = time.time()
    given_up = Instance.ALLOCATION_TIMEOUT
    monitor.notify([InstanceUpdateEvent(new_instance_status=given_up, instance_type="gpu-spot")])
    assert next_group() == "gpu"
    for later_s, group in ((590, "gpu"), (610, "gpu-spot")):
        monkeypatch.setattr(time, "time", lambda later_s=later_s: now + later_s)
        assert next_group() == group
