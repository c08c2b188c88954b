"""Airflow DAG: every night label what is new in the input, then write COCO and the report.

Change IMAGE and RUN, to what values.yaml says, and copy it into the DAGs folder. The Ray cluster comes from the
suspended RayJob of infra/kuberay/overlays/scheduled (its CronJob is not needed then); each task is a small pod.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from kubernetes.client import models as k8s

IMAGE = "registry.example.com/sam3lt-ray:0.1.0-gpu"
RUN = "s3://my-bucket/runs/street-2026"
NAMESPACE = "labeling"
TEMPLATE = "sam3lt-label"


def pod(
    task_id: str, arguments: list[str], *, service_account: str, memory: str, env: dict[str, str] | None = None
) -> KubernetesPodOperator:
    """A task that runs one of the image's jobs."""
    return KubernetesPodOperator(
        task_id=task_id,
        name=f"sam3lt-{task_id}",
        namespace=NAMESPACE,
        image=IMAGE,
        cmds=["python"],
        arguments=arguments,
        env_vars=env or {},
        env_from=[
            k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name="sam3lt-s3-credentials", optional=True)),
        ],
        service_account_name=service_account,
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "500m", "memory": memory}, limits={"cpu": "2", "memory": memory}
        ),
        container_security_context=k8s.V1SecurityContext(
            run_as_non_root=True,
            run_as_user=1000,
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        on_finish_action="delete_succeeded_pod",
    )


with DAG(
    dag_id="sam3lt_nightly",
    schedule="0 2 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    is_paused_upon_creation=False,  # it is there to run; Airflow's default is to wait for somebody
    max_active_runs=1,  # one run directory, one job
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    tags=["labeling"],
):
    label = pod(
        "label",
        ["/opt/sam3lt/jobs/start_rayjob.py", TEMPLATE],
        service_account="sam3lt-scheduler",
        memory="256Mi",
        # A try has a RayJob of its own, which takes up what the last one left.
        env={"JOB_NAME": "sam3lt-{{ ts_nodash | lower }}-{{ ti.try_number }}"},
    )
    export = pod("export", ["/opt/sam3lt/jobs/export.py", "coco", RUN], service_account="sam3lt", memory="8Gi")
    report = pod("report", ["/opt/sam3lt/jobs/report.py", RUN], service_account="sam3lt", memory="4Gi")
    label >> [export, report]
