"""Loads each scheduler example in the scheduler's own package: ``check_schedulers.py airflow|dagster|argo|skypilot``.

Run by ``make check-schedulers``, each in an environment of its own: none of these packages goes with another one. It
loads and compares; nothing is sent anywhere.
"""

from __future__ import annotations

import inspect
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: none
clusters: [{name: none, cluster: {server: "http://127.0.0.1:9"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
"""


def check_airflow() -> str:
    """Airflow's own DAG bag imports the DAG, which is not paused; its tasks are in order, their pods restricted."""
    home = Path(tempfile.mkdtemp(prefix="airflow-"))
    # Building a pod asks for a cluster's address, though nothing is sent there.
    kubeconfig = home / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG, encoding="utf-8")
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": f"kubernetes://?kube_config_path={kubeconfig}",
    }
    from airflow.dag_processing.dagbag import DagBag
    from kubernetes.client import ApiClient

    bag = DagBag(dag_folder=str(HERE / "airflow"))
    expect(bag.import_errors, {}, "import errors")
    (dag,) = bag.dags.values()
    order = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
    expect(order, {"label": ["export", "report"], "export": [], "report": []}, "order of tasks")
    expect(dag.is_paused_upon_creation, False, "paused when it is first seen")
    for task in dag.tasks:
        pod = ApiClient().sanitize_for_serialization(task.build_pod_request_obj())
        (container,) = pod["spec"]["containers"]
        expect(container["command"], ["python"], f"command of {task.task_id}")
        expect_restricted(container["securityContext"], task.task_id)
    return f"DAG {dag.dag_id} with {len(order)} tasks; their pods are built"


def check_dagster() -> str:
    """The definitions load, the schedule is on; pods are restricted, made inside a cluster or from outside."""
    from dagster import DefaultScheduleStatus, Definitions
    from dagster_k8s import execute_k8s_job
    from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
    from kubernetes.client import ApiClient, V1Container

    module = runpy.run_path(str(HERE / "dagster" / "sam3lt_nightly.py"))
    definitions = module["defs"]
    Definitions.validate_loadable(definitions)
    repository = definitions.get_repository_def()
    (schedule,) = repository.schedule_defs
    job = repository.get_job(schedule.job_name)
    expect({node.name for node in job.nodes}, {"label", "export", "report"}, "ops")
    for name in ("export", "report"):
        upstream = {handle.node_name for handle in job.dependency_structure.all_upstream_outputs_from_node(name)}
        expect(upstream, {"label"}, f"what {name} waits for")
    expect(schedule.default_status, DefaultScheduleStatus.RUNNING, "status of the schedule when it is first seen")

    asked: list[dict[str, Any]] = []
    module["run_pod"].__globals__["execute_k8s_job"] = lambda _, **options: asked.append(options)
    for address in (None, "10.0.0.1"):
        os.environ.pop("KUBERNETES_SERVICE_HOST", None)
        if address is not None:
            os.environ["KUBERNETES_SERVICE_HOST"] = address
        module["run_pod"](None, module["LABEL"], service_account="x", memory="1Gi")
        expect(asked[-1]["load_incluster_config"], address is not None, f"in a cluster, with the address {address}")
    unknown = asked[-1].keys() - inspect.signature(execute_k8s_job).parameters.keys()
    expect(unknown, set(), "options that Dagster does not know")
    config = k8s_snake_case_dict(V1Container, {"name": "x", **asked[-1]["container_config"]})
    container = ApiClient().sanitize_for_serialization(k8s_model_from_dict(V1Container, config))
    expect_restricted(container["securityContext"], "pods")
    return f"job {job.name} with {len(job.nodes)} ops, schedule {schedule.cron_schedule}"


def check_argo() -> str:
    """The CronWorkflow fits the models that Hera generates from Argo's own schema, and loses no key in them."""
    import yaml
    from hera.workflows.models import CronWorkflow

    text = (HERE / "argo" / "sam3lt-nightly.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    read = CronWorkflow.model_validate(written).model_dump(by_alias=True, exclude_none=True, mode="json")
    expect(read, written, "the CronWorkflow as Argo's models have it")
    return (
        f"CronWorkflow {written['metadata']['name']} with {len(written['spec']['workflowSpec']['templates'])} templates"
    )


def check_skypilot() -> str:
    """The task loads from the repository's root, where its files are."""
    import sky

    os.chdir(HERE.parent)
    task = sky.Task.from_yaml(str(HERE / "skypilot" / "sam3lt.yaml"))
    (resources,) = task.resources
    expect(resources.accelerators, {"L4": 1}, "accelerators")
    expect(resources.use_spot, True, "spot")
    expect((resources.job_recovery or {}).get("recover_on_exit_codes"), [75], "exit codes that are tried again")
    return f"task {task.name} on {resources}"


def expect_restricted(found: Any, what: str) -> None:
    """Stop where the pod security standard `restricted` would."""
    wanted = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    expect(found, wanted, f"security context of {what}")


def expect(found: Any, expected: Any, what: str) -> None:
    """Stop with both values where they differ."""
    if found != expected:
        raise SystemExit(f"{what}: expected {expected!r}, got {found!r}")


CHECKS = {"airflow": check_airflow, "argo": check_argo, "dagster": check_dagster, "skypilot": check_skypilot}

if __name__ == "__main__":
    print(f"{sys.argv[1]}: {CHECKS[sys.argv[1]]()}")
