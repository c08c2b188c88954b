"""Loads each scheduler example in the scheduler's own package: ``check_schedulers.py airflow|dagster|argo|skypilot``.

Run by ``make check-schedulers``, each in an environment of its own: none of these packages goes with another one. It
loads and compares; nothing is sent anywhere.
"""

from __future__ import annotations

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
    """The DAG is imported by Airflow's own DAG bag, and its tasks stand in the order that is meant."""
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

    bag = DagBag(dag_folder=str(HERE / "airflow"))
    expect(bag.import_errors, {}, "import errors")
    (dag,) = bag.dags.values()
    order = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
    expect(order, {"label": ["export", "report"], "export": [], "report": []}, "order of tasks")
    for task in dag.tasks:
        pod = task.build_pod_request_obj()
        expect(pod.spec.containers[0].command, ["python"], f"command of {task.task_id}")
    return f"DAG {dag.dag_id} with {len(order)} tasks; their pods are built"


def check_dagster() -> str:
    """The definitions load, and the schedule belongs to the job."""
    from dagster import Definitions

    definitions = runpy.run_path(str(HERE / "dagster" / "sam3lt_nightly.py"))["defs"]
    Definitions.validate_loadable(definitions)
    repository = definitions.get_repository_def()
    (schedule,) = repository.schedule_defs
    job = repository.get_job(schedule.job_name)
    expect({node.name for node in job.nodes}, {"label", "export", "report"}, "ops")
    for name in ("export", "report"):
        upstream = {handle.node_name for handle in job.dependency_structure.all_upstream_outputs_from_node(name)}
        expect(upstream, {"label"}, f"what {name} waits for")
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


def expect(found: Any, expected: Any, what: str) -> None:
    """Stop with both values where they differ."""
    if found != expected:
        raise SystemExit(f"{what}: expected {expected!r}, got {found!r}")


CHECKS = {"airflow": check_airflow, "argo": check_argo, "dagster": check_dagster, "skypilot": check_skypilot}

if __name__ == "__main__":
    print(f"{sys.argv[1]}: {CHECKS[sys.argv[1]]()}")
