"""Monitoring: kinds of the Prometheus operator, queries that parse, and metrics that there are."""

from __future__ import annotations

import json
import re
import runpy
from typing import Annotated, Any, Literal

import promql_parser
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tests.unit.infra.manifests import (
    INFRA,
    OVERLAYS,
    check_core_kind,
    job_spec,
    kustomize,
    overlay,
    pod_templates,
)

FOLDER = INFRA / "monitoring"
# Names as Ray exports them: its prefix, and _total for counters. The product defines them in the same form.
METRICS: dict[str, set[str]] = {
    "ray_sam3lt_images_total": {"status"},
    "ray_sam3lt_instances_total": {"label"},
    "ray_sam3lt_part_seconds_total": {"part"},
    "ray_sam3lt_gpu_busy_fraction": set(),
    "ray_sam3lt_memory_halvings_total": set(),
    "ray_sam3lt_shards": {"state"},
    "ray_sam3lt_bytes_read_total": set(),
}
# Looked up in KubeRay's ray-operator/controllers/ray/metrics and in kube-state-metrics' docs/metrics/workload.
METRICS_OF_OTHERS: dict[str, set[str]] = {
    "kuberay_job_deployment_status": {"name", "deployment_status"},
    "kube_cronjob_created": {"cronjob"},
    "kube_cronjob_spec_suspend": {"cronjob"},
    "kube_cronjob_status_active": {"cronjob"},
    "kube_cronjob_status_last_successful_time": {"cronjob"},
}
FROM_THE_POD = {"namespace", "ray_io_cluster"}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
Duration = Annotated[str, StringConstraints(pattern=r"^\d+(s|m|h|d)$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str
    labels: dict[str, str] = {}


class Endpoint(Strict):
    port: str
    interval: Duration


class MatchExpression(Strict):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str]


class Selector(Strict):
    matchExpressions: list[MatchExpression]


class PodMonitorSpec(Strict):
    selector: Selector
    podTargetLabels: list[str]
    podMetricsEndpoints: Annotated[list[Endpoint], Field(min_length=1)]


class PodMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: PodMonitorSpec


class Rule(Strict):
    alert: Annotated[str, StringConstraints(pattern=r"^Sam3lt[A-Z]\w+$")]
    expr: str
    for_: Duration = Field(default="0s", alias="for")
    labels: dict[Literal["severity"], Literal["critical", "warning", "info"]]
    annotations: dict[Literal["summary", "description"], str]


class RuleGroup(Strict):
    name: str
    rules: Annotated[list[Rule], Field(min_length=1)]


class RuleSpec(Strict):
    groups: list[RuleGroup]


class PrometheusRule(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: RuleSpec


KINDS: dict[str, type[BaseModel]] = {"PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule}


def alert_expressions() -> dict[str, str]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["spec"]["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def panel_expressions() -> dict[str, str]:
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$__range", "1h")
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    }


EXPRESSIONS = alert_expressions() | panel_expressions()


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_queries_parse_and_name_metrics_and_labels_that_there_are(name: str) -> None:
    expression = EXPRESSIONS[name]
    promql_parser.parse(expression)
    known = METRICS | METRICS_OF_OTHERS
    metrics = set(re.findall(r"\b(?:ray_(?!io_)|kube)\w+", expression))
    assert metrics
    assert metrics <= known.keys()
    labels = set(re.findall(r"(\w+)(?:=~?|!=)\"", expression))
    labels |= {word for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for word in group.split(", ")}
    assert labels <= FROM_THE_POD | set().union(*(known[metric] for metric in metrics))


def test_a_query_with_a_mistake_would_be_noticed() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        promql_parser.parse("sum by (status (rate(x[5m]))")


def test_jobs_that_fail_and_nights_that_are_missed_are_those_of_the_overlays() -> None:
    failed, missed = EXPRESSIONS["Sam3ltJobFailed"], EXPRESSIONS["Sam3ltNightMissed"]
    (names,) = set(re.findall(r'\bname=~"([^"]+)"', failed))
    started = {
        manifest["metadata"]["name"] for name in OVERLAYS for manifest in overlay(name) if "Job" in manifest["kind"]
    }
    assert [name for name in started if not re.fullmatch(names, name)] == []  # nights are named after what starts them
    (states,) = set(re.findall(r'deployment_status=~"([^"]+)"', failed))
    ends = runpy.run_path(str(INFRA.parent / "jobs" / "start_rayjob.py"))["_ENDS"]
    assert {"Complete", *states.split("|")} == set(ends)
    (nightly,) = [manifest["metadata"]["name"] for manifest in overlay("scheduled") if manifest["kind"] == "CronJob"]
    assert set(re.findall(r'cronjob="([^"]+)"', missed)) == {nightly}


def test_standing_still_for_half_an_hour_is_half_an_hour() -> None:
    """However long the window: before the first image a query over it is empty at once."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["spec"]["groups"]
    (rule,) = [rule for group in groups for rule in group["rules"] if rule["alert"] == "Sam3ltStandsStill"]
    assert "half an hour" in rule["annotations"]["summary"]
    assert rule["for"] == "30m"
    (window,) = re.findall(r"\[(\d+)m\]", rule["expr"])
    assert int(window) <= 5  # which comes on top, after an image


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(panel_expressions().values())
    assert [metric for metric in METRICS if metric not in shown] == []


def test_panels_do_not_lie_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_kinds_are_those_of_the_operator() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in kustomize(FOLDER)}
    assert by_kind.keys() == {"ConfigMap", *KINDS}
    for kind, model in KINDS.items():
        model.model_validate(by_kind[kind])
        with pytest.raises(ValidationError):
            model.model_validate(by_kind[kind] | {"spec": {}})
    check_core_kind(by_kind["ConfigMap"])
    assert json.loads(by_kind["ConfigMap"]["data"]["sam3lt.json"]) == DASHBOARD


def test_the_monitor_finds_the_pods_of_the_rayjob() -> None:
    (monitor,) = [manifest for manifest in kustomize(FOLDER) if manifest["kind"] == "PodMonitor"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for group, template in pod_templates(job_spec(overlay("gpu-spot"))).items():
        assert endpoint["port"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}, group
    # Prometheus makes label names of them: by these dashboard and alerts tell clusters apart.
    assert "ray_io_cluster" in {re.sub(r"\W", "_", label) for label in monitor["spec"]["podTargetLabels"]}
