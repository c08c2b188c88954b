"""Every overlay is rendered by kubectl and checked as the cluster would; its command line is parsed by ours."""

from __future__ import annotations

import copy
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from pydantic import TypeAdapter, ValidationError

from sam3lt_ray.errors import EXIT_FAILED, EXIT_OVER_ERROR_BUDGET, EXIT_USAGE
from sam3lt_ray.vocabulary.loading import load_vocabulary
from tests.unit.infra.manifests import (
    ALL_OVERLAYS,
    IN_THE_IMAGE,
    OVERLAYS,
    ROOT,
    check_core_kind,
    check_restricted,
    driver_config,
    job_spec,
    overlay,
    pod_templates,
    pods,
)
from tests.unit.infra.ray_kinds import RAY_KINDS, RayJob, RayJobName, RayJobSpec


@pytest.mark.parametrize("name", ALL_OVERLAYS)
def test_every_manifest_is_one_that_the_cluster_takes(name: str) -> None:
    manifests = overlay(name)
    names = {manifest["metadata"]["name"] for manifest in manifests}
    assert not names & {"sam3lt-values", "sam3lt-first-look"}
    for manifest in manifests:
        if manifest["apiVersion"] == "ray.io/v1":
            RAY_KINDS[manifest["kind"]].model_validate(manifest)
        else:
            check_core_kind(manifest)
    for pod in pods(manifests):
        check_core_kind({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod})


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_driver_gets_a_config_that_loads(name: str, tmp_path: Path) -> None:
    loaded = driver_config(overlay(name), tmp_path)
    assert load_vocabulary(loaded.config.vocabulary, base_dir=loaded.base_dir).labels
    spec = job_spec(overlay(name))
    groups = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert {group["maxReplicas"] for group in groups} == {loaded.config.compute.actors}, "an actor per worker"
    (cpus,) = {group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] for group in groups}
    assert loaded.config.compute.cpus_per_actor == float(cpus) - 1, "one CPU of each worker reads and commits"
    # Otherwise a cluster that has yet to grow is taken for one without GPUs.
    gpus = {group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for group in groups}
    assert gpus == ({"1"} if loaded.config.compute.device == "cuda" else {None})
    assert loaded.config.compute.device != "auto"


@pytest.mark.parametrize("name", ALL_OVERLAYS)
def test_every_pod_finds_the_secret_of_a_registry_that_wants_a_login(name: str) -> None:
    accounts = {m["metadata"]["name"]: m for m in overlay(name) if m["kind"] == "ServiceAccount"}
    for pod in pods(overlay(name)):
        assert accounts[pod["serviceAccountName"]]["imagePullSecrets"] == [{"name": "sam3lt-registry"}]


def test_every_promise_of_the_base_holds_in_the_plain_overlay() -> None:
    spec = RayJobSpec.model_validate(job_spec(overlay("gpu")))
    cluster = spec.rayClusterSpec
    assert (spec.shutdownAfterJobFinishes, spec.backoffLimit) == (True, 2)
    assert cluster.autoscalerOptions is not None
    assert (cluster.autoscalerOptions.version, cluster.authOptions.mode) == ("v2", "token")
    assert cluster.headGroupSpec.rayStartParams["num-cpus"] == "0"
    for group in cluster.workerGroupSpecs:
        assert (group.minReplicas, group.replicas) == (0, None)
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in group.template["spec"][
            "tolerations"
        ]


@pytest.mark.parametrize("name", ALL_OVERLAYS)
def test_every_pod_fits_a_restricted_namespace(name: str) -> None:
    found = pods(overlay(name))
    assert found
    for pod in found:
        check_restricted(pod)
    if name in OVERLAYS:
        cluster = job_spec(overlay(name))["rayClusterSpec"]
        if cluster["enableInTreeAutoscaling"]:  # its container joins the head's pod
            head = cluster["headGroupSpec"]["template"]["spec"]
            check_restricted(head | {"containers": [cluster["autoscalerOptions"]]})


def test_a_pod_that_a_restricted_namespace_refuses_would_be_noticed() -> None:
    (pod,) = pods(overlay("plan"))
    for key in ("seccompProfile", "runAsNonRoot"):
        less = copy.deepcopy(pod)
        del less["securityContext"][key]
        with pytest.raises(AssertionError):
            check_restricted(less)


def test_ray_is_the_version_of_the_constraints() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    versions = {job_spec(overlay(name))["rayClusterSpec"]["rayVersion"] for name in OVERLAYS}
    assert [f"ray=={version}" in constraints.splitlines() for version in versions] == [True]


def test_the_schedule_may_do_what_its_pod_does_and_no_more() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in overlay("scheduled") if manifest["kind"] != "ServiceAccount"}
    accounts = {m["metadata"]["name"] for m in overlay("scheduled") if m["kind"] == "ServiceAccount"}
    cron = by_kind["CronJob"]["spec"]
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert by_kind["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    assert [subject["name"] for subject in by_kind["RoleBinding"]["subjects"]] == [pod["serviceAccountName"]]
    assert {pod["serviceAccountName"], "sam3lt"} == accounts
    (container,) = pod["containers"]
    assert container["command"] == [
        "python",
        f"{IN_THE_IMAGE}jobs/start_rayjob.py",
        by_kind["RayJob"]["metadata"]["name"],
    ]
    assert (ROOT / "jobs" / "start_rayjob.py").is_file()
    assert container["image"] == pod_templates(job_spec(overlay("scheduled")))["head"]["spec"]["containers"][0]["image"]
    assert by_kind["RayJob"]["spec"]["suspend"] is True
    # Its Jobs are named after it, with a dash and up to 11 digits, and the RayJobs after them.
    name_of_copy = runpy.run_path(str(ROOT / "jobs" / "start_rayjob.py"))["name_of_copy"]
    TypeAdapter(RayJobName).validate_python(name_of_copy(f"{by_kind['CronJob']['metadata']['name']}-{'9' * 11}", "uid"))


def test_the_schedule_gives_up_what_wants_a_person() -> None:
    (cron,) = [manifest for manifest in overlay("scheduled") if manifest["kind"] == "CronJob"]
    job = cron["spec"]["jobTemplate"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    (container,) = job["template"]["spec"]["containers"]
    codes = rule["onExitCodes"]
    assert (codes["containerName"], codes["operator"]) == (container["name"], "In")
    # 75 is also how the waiting pod itself ends when the API server stays away: that is tried again.
    assert codes["values"] == [EXIT_FAILED, EXIT_USAGE, EXIT_OVER_ERROR_BUDGET]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # Kubernetes wants it for such a policy


def _groups(manifest: Any) -> Any:
    return manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]


RULES: dict[str, tuple[Callable[[Any], object], str]] = {
    "unknown field": (lambda m: m["spec"].update(shutdownAfterFinish=True), "shutdownAfterFinish"),
    "name too long": (lambda m: m["metadata"].update(name="a" * 48), "47"),
    "name with a dot": (lambda m: m["metadata"].update(name="a.b"), "pattern"),
    "ttl without shutdown": (lambda m: m["spec"].update(shutdownAfterJobFinishes=False), "ttlSeconds"),
    "suspended for ever": (
        lambda m: m["spec"].update(suspend=True, shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0),
        "suspended",
    ),
    "negative retries": (lambda m: m["spec"].update(backoffLimit=-1), "backoffLimit"),
    "min above max": (lambda m: _groups(m)[0].update(minReplicas=9, maxReplicas=3), "minReplicas"),
    "same group twice": (lambda m: _groups(m).append(_groups(m)[0]), "same name"),
    "text for a number": (lambda m: _groups(m)[0].update(maxReplicas="4"), "maxReplicas"),
    "start parameter that is no text": (lambda m: _groups(m)[0].update(rayStartParams={"num-cpus": 0}), "num-cpus"),
    "no container": (lambda m: _groups(m)[0].update(template={"spec": {"containers": []}}), "container"),
    "restarted pods": (lambda m: _groups(m)[0]["template"]["spec"].update(restartPolicy="Always"), "restartPolicy"),
    "tokens without a version": (lambda m: m["spec"]["rayClusterSpec"].update(rayVersion="2.51.0"), "2.52"),
    "idle options": (lambda m: m["spec"]["rayClusterSpec"].update(enableInTreeAutoscaling=False), "switched off"),
    "submitter for ever": (
        lambda m: m["spec"]["submitterPodTemplate"]["spec"].update(restartPolicy="Always"),
        "restartPolicy",
    ),
    "open quote": (lambda m: m["spec"].update(entrypoint="python 'x"), "quotation"),
    "rules and shutdown": (
        lambda m: m["spec"].update(
            deletionStrategy={"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]}
        ),
        "exclude each other",
    ),
    "queue without suspend": (lambda m: m["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": "q"}), "Kueue"),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_operators_rules_are_in_the_models(rule: str) -> None:
    (valid,) = [manifest for manifest in overlay("gpu") if manifest["kind"] == "RayJob"]
    RayJob.model_validate(valid)
    spoil, named = RULES[rule]
    spoiled = copy.deepcopy(valid)
    spoil(spoiled)
    with pytest.raises(ValidationError, match=named):
        RayJob.model_validate(spoiled)


def test_core_kinds_are_checked_strictly() -> None:
    (account,) = [manifest for manifest in overlay("gpu") if manifest["kind"] == "ServiceAccount"]
    with pytest.raises(kubernetes_validate.ValidationError):
        check_core_kind(account | {"imagePullSecret": []})
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check_core_kind(account | {"kind": "ServiceAccounts"})
