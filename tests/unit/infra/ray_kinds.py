"""RayJob and RayCronJob as far as we use them, and the rules of KubeRay's operator, which refuses what breaks them.

Closed models: a field that is not here is a mistake until somebody has looked it up in KubeRay's CRDs (v1.7).
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

# The operator makes names of pods and services from these.
RayJobName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=47)]
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_LEAST_RAY_WITH_TOKENS = (2, 52, 0)
_CRON_FIELD = re.compile(r"^(\*|\d+(-\d+)?)(/\d+)?(,(\*|\d+(-\d+)?)(/\d+)?)*$")
_MOST_KUEUE_GROUPS = 7


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AuthOptions(Strict):
    mode: Literal["token", "disabled"]


class Variable(Strict):
    name: str
    value: str


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"]
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    idleTimeoutSeconds: Annotated[int, Field(ge=0)]
    resources: dict[str, dict[str, str]]
    securityContext: dict[str, Any]
    env: list[Variable] = []


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: dict[str, Any]


class WorkerGroup(Strict):
    groupName: RayJobName
    minReplicas: Annotated[int, Field(ge=0)]
    maxReplicas: Annotated[int, Field(ge=1)]
    replicas: Annotated[int, Field(ge=0)] | None = None
    priority: Annotated[int, Field(ge=0)] = 0
    rayStartParams: dict[str, str]
    template: dict[str, Any]

    @model_validator(mode="after")
    def _sizes(self) -> WorkerGroup:
        replicas = self.minReplicas if self.replicas is None else self.replicas
        if not self.minReplicas <= replicas <= self.maxReplicas:
            raise ValueError("minReplicas <= replicas <= maxReplicas does not hold")
        return self


class RayCluster(Strict):
    rayVersion: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: Annotated[list[WorkerGroup], Field(min_length=1)]

    @model_validator(mode="after")
    def _rules(self) -> RayCluster:
        names = [group.groupName for group in self.workerGroupSpecs]
        if len(set(names)) != len(names):
            raise ValueError("two worker groups have the same name")
        if self.authOptions.mode == "token" and _version(self.rayVersion) < _LEAST_RAY_WITH_TOKENS:
            raise ValueError("tokens need Ray 2.52")
        if self.autoscalerOptions is not None and not self.enableInTreeAutoscaling:
            raise ValueError("options of an autoscaler that is switched off")
        for group in (self.headGroupSpec, *self.workerGroupSpecs):
            _check_pods(group, autoscaled=self.enableInTreeAutoscaling)
        return self


def _check_pods(group: HeadGroup | WorkerGroup, *, autoscaled: bool) -> None:
    pod = group.template["spec"]
    if not pod.get("containers"):
        raise ValueError("a group needs a container")
    if "labels" in group.rayStartParams:
        raise ValueError("labels belong into the group's own field")
    if autoscaled and pod.get("restartPolicy", "Never") != "Never":
        raise ValueError("autoscaler v2 wants restartPolicy Never")
    if any(variable["name"] == "RAY_enable_autoscaler_v2" for variable in pod["containers"][0].get("env", [])):
        raise ValueError("the autoscaler's version is said twice")


class DeletionCondition(Strict):
    jobStatus: Literal["SUCCEEDED", "FAILED"] | None = None
    jobDeploymentStatus: Literal["Failed"] | None = None
    ttlSeconds: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one(self) -> DeletionCondition:
        if (self.jobStatus is None) == (self.jobDeploymentStatus is None):
            raise ValueError("either jobStatus or jobDeploymentStatus")
        return self


class DeletionRule(Strict):
    policy: Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]
    condition: DeletionCondition


class DeletionStrategy(Strict):
    deletionRules: Annotated[list[DeletionRule], Field(min_length=1)]


class SubmitterTemplate(Strict):
    spec: dict[str, Any]

    @model_validator(mode="after")
    def _job(self) -> SubmitterTemplate:
        if not self.spec.get("containers"):
            raise ValueError("the first container submits")
        if self.spec.get("restartPolicy") not in ("Never", "OnFailure"):
            raise ValueError("Kubernetes wants restartPolicy Never or OnFailure of a Job's pods")
        return self


class RayJobSpec(Strict):
    entrypoint: Annotated[str, Field(min_length=1)]
    submissionMode: Literal["K8sJobMode", "HTTPMode"]
    backoffLimit: Annotated[int, Field(ge=0)]
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Annotated[int, Field(ge=0)] = 0
    preRunningDeadlineSeconds: Annotated[int, Field(ge=1)]
    activeDeadlineSeconds: Annotated[int, Field(ge=1)]
    suspend: bool = False
    submitterPodTemplate: SubmitterTemplate
    deletionStrategy: DeletionStrategy | None = None
    rayClusterSpec: RayCluster

    @model_validator(mode="after")
    def _rules(self) -> RayJobSpec:
        shlex.split(self.entrypoint)  # a shell reads it
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
        if self.suspend and not self.shutdownAfterJobFinishes:
            raise ValueError("only a job that shuts its cluster down can be suspended")
        if self.preRunningDeadlineSeconds > self.activeDeadlineSeconds:
            raise ValueError("the deadline before running is the longer one")
        if self.deletionStrategy is not None:
            self._check_deletion(self.deletionStrategy.deletionRules)
        return self

    def _check_deletion(self, rules: list[DeletionRule]) -> None:
        if self.shutdownAfterJobFinishes:
            raise ValueError("shutdownAfterJobFinishes and deletionRules exclude each other")
        if self.backoffLimit:
            raise ValueError("a retry would replace the cluster that is to be kept")
        keys = [(rule.policy, rule.condition.jobStatus, rule.condition.jobDeploymentStatus) for rule in rules]
        if len(set(keys)) != len(keys):
            raise ValueError("two rules for the same case")
        if self.rayClusterSpec.enableInTreeAutoscaling and any(rule.policy == "DeleteWorkers" for rule in rules):
            raise ValueError("DeleteWorkers does not go with autoscaling")


class Metadata(Strict):
    name: RayJobName
    labels: dict[str, str]
    annotations: dict[str, str] = {}


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec

    @model_validator(mode="after")
    def _kueue(self) -> RayJob:
        """Kueue's own limits for RayJobs."""
        if QUEUE_LABEL not in self.metadata.labels:
            return self
        cluster = self.spec.rayClusterSpec
        if not (self.spec.suspend and self.spec.shutdownAfterJobFinishes):
            raise ValueError("Kueue admits suspended jobs that shut down afterwards")
        if cluster.enableInTreeAutoscaling or len(cluster.workerGroupSpecs) > _MOST_KUEUE_GROUPS:
            raise ValueError("Kueue reserves a fixed size, in at most 7 groups")
        if any(group.replicas != group.maxReplicas for group in cluster.workerGroupSpecs):
            raise ValueError("without an autoscaler nothing brings the missing replicas")
        return self


class RayCronJobSpec(Strict):
    schedule: str
    timeZone: str
    jobTemplate: RayJobSpec

    @model_validator(mode="after")
    def _cron(self) -> RayCronJobSpec:
        fields = self.schedule.split()
        if len(fields) != 5 or not all(_CRON_FIELD.match(field) for field in fields):
            raise ValueError("not a cron schedule of five fields")
        return self


class RayCronJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCronJob"]
    metadata: Metadata
    spec: RayCronJobSpec


RAY_KINDS: dict[str, type[RayJob | RayCronJob]] = {"RayJob": RayJob, "RayCronJob": RayCronJob}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
