"""Command lines of the scheduler examples are ours. That the schedulers take them is for ``make check-schedulers``."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command_lines import JOBS, own_arguments, parse
from tests.unit.infra.manifests import INFRA, check_core_kind, check_restricted, job_spec, overlay

ROOT = INFRA.parent
RUN = "s3://my-bucket/runs/street-2026"
IN_THE_IMAGE = re.compile(r"/opt/sam3lt/(?P<path>[\w./-]+)")
PYTHON_EXAMPLES = sorted((*(INFRA / "airflow").glob("*.py"), *(INFRA / "dagster").glob("*.py")))


def lists_of_text(path: Path) -> Iterator[list[str]]:
    """Literal lists of a source file, with its constants put in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.List) and node.elts:
            words = [
                element.value if isinstance(element, ast.Constant) else constants.get(getattr(element, "id", ""))
                for element in node.elts
            ]
            if all(isinstance(word, str) for word in words):
                yield [str(word) for word in words]


def python_commands(path: Path) -> list[list[str]]:
    lists = [words if words[0] == "python" else ["python", *words] for words in lists_of_text(path)]
    return [words for words in lists if any("/jobs/" in word for word in words)]


def argo_commands() -> list[list[str]]:
    spec = yaml.safe_load((INFRA / "argo" / "sam3lt-nightly.yaml").read_text(encoding="utf-8"))["spec"]["workflowSpec"]
    values = {f"{{{{workflow.parameters.{item['name']}}}}}": item["value"] for item in spec["arguments"]["parameters"]}
    containers = [template["container"] for template in spec["templates"] if "container" in template]
    return [[values.get(word, word) for word in (*item["command"], *item["args"])] for item in containers]


def skypilot_commands() -> list[list[str]]:
    task: dict[str, Any] = yaml.safe_load((INFRA / "skypilot" / "sam3lt.yaml").read_text(encoding="utf-8"))
    text = task["run"]
    for name, value in task["envs"].items():
        text = text.replace(f"${name}", value)
    return [shlex.split(line) for line in text.splitlines()]


COMMANDS: dict[str, list[list[str]]] = {
    **{path.parent.name: python_commands(path) for path in PYTHON_EXAMPLES},
    "argo": argo_commands(),
    "skypilot": skypilot_commands(),
}


@pytest.mark.parametrize("scheduler", ["airflow", "argo", "dagster"])
def test_a_night_is_a_rayjob_then_coco_and_the_report(scheduler: str) -> None:
    started = [words[2:] for words in COMMANDS[scheduler] if words[1] == "/opt/sam3lt/jobs/start_rayjob.py"]
    own = [arguments for words in COMMANDS[scheduler] if (arguments := own_arguments(words)) is not None]
    assert own == [["export", "coco", RUN], ["report", RUN]]
    for arguments in own:
        assert parse(arguments)["run"] == RUN
    (template,) = [m["metadata"]["name"] for m in overlay("scheduled") if m["kind"] == "RayJob"]
    assert started == [[template]]
    assert RUN in job_spec(overlay("scheduled"))["entrypoint"]


def test_skypilot_labels() -> None:
    (words,) = COMMANDS["skypilot"]
    arguments = own_arguments(words)
    assert arguments is not None
    options = parse(arguments)
    assert options["overrides"] == [f"run.output={RUN}", "input.uri=s3://my-bucket/shards/street/"]
    task = yaml.safe_load((INFRA / "skypilot" / "sam3lt.yaml").read_text(encoding="utf-8"))
    assert [str(path) for path in options["config"]] == list(task["file_mounts"])
    assert all((ROOT / source).is_file() for source in task["file_mounts"].values())


def test_what_else_skypilot_may_do_is_ours() -> None:
    texts = [(INFRA / name).read_text(encoding="utf-8") for name in ("README.md", "skypilot/sam3lt.yaml")]
    others = {words for text in texts for words in re.findall(r'--env DO="([^"]+)"', text)}
    assert {words.partition(" ")[0] for words in others} == {"plan", "label"}
    for words in others:
        parse(shlex.split(words))


def test_service_accounts_are_those_of_the_overlay() -> None:
    accounts = {m["metadata"]["name"] for m in overlay("scheduled") if m["kind"] == "ServiceAccount"}
    for path in (*PYTHON_EXAMPLES, INFRA / "argo" / "sam3lt-nightly.yaml"):
        named = set(
            re.findall(r"service_?[aA]ccount(?:Name)?[=:] ?\"?([\w-]+)\"?(?=[,)\n])", path.read_text(encoding="utf-8"))
        )
        assert named - {"str", "service_account"} == accounts, path


def test_argos_pods_fit_a_restricted_namespace_and_may_report_their_results() -> None:
    spec = yaml.safe_load((INFRA / "argo" / "sam3lt-nightly.yaml").read_text(encoding="utf-8"))["spec"]["workflowSpec"]
    steps = [template for template in spec["templates"] if "container" in template]
    for step in steps:
        check_restricted({"securityContext": spec["securityContext"], "containers": [step["container"]]})
    role, binding = yaml.safe_load_all((INFRA / "argo" / "rbac.yaml").read_text(encoding="utf-8"))
    for manifest in (role, binding):
        check_core_kind(manifest)
    (rule,) = role["rules"]
    assert rule == {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", role["metadata"]["name"])
    assert {subject["name"] for subject in binding["subjects"]} == {step["serviceAccountName"] for step in steps}


def test_argo_tries_again_what_the_cronjob_tries_again() -> None:
    spec = yaml.safe_load((INFRA / "argo" / "sam3lt-nightly.yaml").read_text(encoding="utf-8"))["spec"]["workflowSpec"]
    (strategy,) = [template["retryStrategy"] for template in spec["templates"] if "retryStrategy" in template]
    (cron,) = [manifest for manifest in overlay("scheduled") if manifest["kind"] == "CronJob"]
    (rule,) = cron["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert strategy["expression"] == f"asInt(lastRetry.exitCode) not in {rule['onExitCodes']['values']}"


@pytest.mark.parametrize("path", PYTHON_EXAMPLES, ids=lambda path: path.parent.name)
def test_pods_made_from_python_fit_a_restricted_namespace(path: Path) -> None:
    """By what stands in the source; that the schedulers make of it what is meant is for ``make check-schedulers``."""
    text = path.read_text(encoding="utf-8")
    for words in (
        r"run_as_non_root\W+True",
        r"allow_privilege_escalation\W+False",
        r"capabilities\W.*drop\W+ALL",
        r"seccomp_profile\W.*RuntimeDefault",
    ):
        assert re.search(words, text), words


@pytest.mark.parametrize("path", [p for p in INFRA.rglob("*") if p.suffix in (".py", ".yaml", ".md")], ids=str)
def test_what_is_named_in_the_image_is_in_the_repository(path: Path) -> None:
    named = {match["path"].rstrip("./") for match in IN_THE_IMAGE.finditer(path.read_text(encoding="utf-8"))}
    assert [name for name in named - {"weights"} if not (ROOT / name).exists()] == []


def test_jobs_are_thin() -> None:
    for path in JOBS.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 20 or path.name == "start_rayjob.py"
    # It runs in pods of other people's schedules: nothing but Python's own library.
    tree = ast.parse((JOBS / "start_rayjob.py").read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names
