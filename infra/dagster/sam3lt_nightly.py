"""Dagster job: every night label what is new in the input, then write COCO and the report.

Change IMAGE and RUN, to what values.yaml says, and load it with `dagster dev -f infra/dagster/sam3lt_nightly.py`. The
Ray cluster comes from the suspended RayJob of infra/kuberay/overlays/scheduled (its CronJob is not needed then); each
op is a small pod. Dagster may run in the cluster, or on a machine whose kubeconfig leads there.
"""

# No `from __future__ import annotations` here: Dagster looks at the type of `context` itself.
import os
from typing import Any

from dagster import (
    DefaultScheduleStatus,
    Definitions,
    In,
    Nothing,
    OpExecutionContext,
    Out,
    RetryPolicy,
    ScheduleDefinition,
    job,
    op,
)
from dagster_k8s import execute_k8s_job

IMAGE = "registry.example.com/sam3lt-ray:0.1.0-gpu"
RUN = "s3://my-bucket/runs/street-2026"
NAMESPACE = "labeling"
TEMPLATE = "sam3lt-label"
RETRY = RetryPolicy(max_retries=2, delay=300)

LABEL = ["python", "/opt/sam3lt/jobs/start_rayjob.py", TEMPLATE]
EXPORT = ["python", "/opt/sam3lt/jobs/export.py", "coco", RUN]
REPORT = ["python", "/opt/sam3lt/jobs/report.py", RUN]


def run_pod(
    context: OpExecutionContext, command: list[str], *, service_account: str, memory: str, env: tuple[str, ...] = ()
) -> None:
    """Run one of the image's jobs; its failure is the op's."""
    container: dict[str, Any] = {
        "env_from": [{"secret_ref": {"name": "sam3lt-s3-credentials", "optional": True}}],
        "security_context": {
            "run_as_non_root": True,
            "run_as_user": 1000,
            "allow_privilege_escalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccomp_profile": {"type": "RuntimeDefault"},
        },
    }
    execute_k8s_job(
        context,
        image=IMAGE,
        command=command,
        namespace=NAMESPACE,
        service_account_name=service_account,
        resources={"requests": {"cpu": "500m", "memory": memory}, "limits": {"cpu": "2", "memory": memory}},
        env_vars=list(env),
        container_config=container,
        load_incluster_config="KUBERNETES_SERVICE_HOST" in os.environ,
    )


@op(retry_policy=RETRY, out=Out(Nothing))
def label(context: OpExecutionContext) -> None:
    """The RayJob; a try has one of its own, which takes up what the last one left."""
    name = f"sam3lt-{context.run_id[:8]}-{context.retry_number}"
    run_pod(context, LABEL, service_account="sam3lt-scheduler", memory="256Mi", env=(f"JOB_NAME={name}",))


@op(ins={"labeled": In(Nothing)}, retry_policy=RETRY)
def export(context: OpExecutionContext) -> None:
    """COCO for training."""
    run_pod(context, EXPORT, service_account="sam3lt", memory="8Gi")


@op(ins={"labeled": In(Nothing)}, retry_policy=RETRY)
def report(context: OpExecutionContext) -> None:
    """The page with numbers and pictures."""
    run_pod(context, REPORT, service_account="sam3lt", memory="4Gi")


@job
def sam3lt_nightly() -> None:
    """Label, then what is made of the labels."""
    done = label()
    export(labeled=done)
    report(labeled=done)


defs = Definitions(
    jobs=[sam3lt_nightly],
    schedules=[
        ScheduleDefinition(
            job=sam3lt_nightly,
            cron_schedule="0 2 * * *",
            execution_timezone="UTC",
            default_status=DefaultScheduleStatus.RUNNING,  # Dagster's default is to wait for somebody
        )
    ],
)
