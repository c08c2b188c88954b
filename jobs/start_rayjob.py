"""``start_rayjob.py TEMPLATE``: copies a suspended RayJob, lets the copy run, and ends with its exit code.

For whatever runs containers in the cluster's namespace: a CronJob, Airflow, Dagster, Argo. JOB_NAME names the copy: a
container that is started again with the same name finds the copy of the first one and goes on waiting for it. With
JOB_UID the copy belongs to the Kubernetes Job of that name, goes when that goes, and is called JOB_NAME-ray.

Exit codes are those of ``jobs/label.py``; where no driver got that far, 2 for what is refused (a RayJob by the
operator, a request by the API server) and 75 for all that may pass, an API server that stays away among it.

Standard library only: it talks to the API server with the service account of its pod.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POLL_S: Final = 30.0
PATIENCE_S: Final = 900.0  # that the API server may be away
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
# Tells copies from templates and from RayJobs that people apply: what is done can be deleted by it.
COPY_LABEL: Final = {"app.kubernetes.io/managed-by": "start-rayjob"}
_CONFLICT: Final = 409
_PASSING: Final = (401, 408, 429)  # of the 4xx; 401 is a token that the kubelet has yet to renew
# An answer that breaks off is none of urllib's errors, which are all of the OSError family.
_AWAY: Final = (OSError, http.client.HTTPException, json.JSONDecodeError)
_DONE, _FAILED, _REFUSED, _RETRY = 0, 1, 2, 75
_ENDS: Final = ("Complete", "Failed", "ValidationFailed")  # the operator refuses a RayJob without failing it
# How Ray words it; KubeRay passes it on in the RayJob's status.
_DRIVER_EXIT: Final = re.compile(r"failed with exit code (\d+)")


class RayJobs:
    """RayJobs of one namespace.

    Args:
        server: Url of the API server.
        account: Folder with the service account's token, namespace and ca.crt.
    """

    def __init__(self, server: str, account: Path) -> None:
        namespace = (account / "namespace").read_text(encoding="utf-8")
        self._account = account
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        certificate = account / "ca.crt"
        self._tls = ssl.create_default_context(cafile=certificate) if certificate.exists() else None

    def get(self, name: str) -> dict[str, Any]:
        """The RayJob of this name."""
        return self._send("GET", f"/{name}")

    def create(self, rayjob: dict[str, Any]) -> None:
        """Create it; one that stands there under this name is the one."""
        try:
            self._send("POST", "", rayjob)
        except urllib.error.HTTPError as error:
            if error.code != _CONFLICT:
                raise

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        token = (self._account / "token").read_text(encoding="utf-8")  # the kubelet renews it
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30, context=self._tls) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


def name_of_copy(job_name: str, job_uid: str | None) -> str:
    """Not the name of the Job that waits: KubeRay takes a Job with a RayJob's name for the one that submits it."""
    return f"{job_name}-ray" if job_uid else job_name


def copy_of(template: Mapping[str, Any], job_name: str, job_uid: str | None) -> dict[str, Any]:
    """The RayJob to create: the template's labels, one more, and its spec; only a queue's are created suspended."""
    labels = template["metadata"].get("labels", {})
    owners = [{"apiVersion": "batch/v1", "kind": "Job", "name": job_name, "uid": job_uid}] if job_uid else []
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "name": name_of_copy(job_name, job_uid),
            "labels": labels | COPY_LABEL,
            "ownerReferences": owners,
        },
        "spec": template["spec"] | {"suspend": QUEUE_LABEL in labels},
    }


def wait_for_end(rayjobs: RayJobs, name: str, *, poll_s: float, patience_s: float) -> int:
    """Wait until the RayJob is complete or has failed for good; returns the exit code."""
    last_answer = time.monotonic()
    while True:
        try:
            status = rayjobs.get(name).get("status", {})
            last_answer = time.monotonic()
        except _AWAY as error:
            if time.monotonic() - last_answer > patience_s:
                raise
            print(f"The API server does not answer ({error}); asking again.", file=sys.stderr, flush=True)
            status = {}
        if status.get("jobDeploymentStatus") in _ENDS:
            print(f"{name}: {status.get('jobStatus') or status.get('reason')} {status.get('message', '')}", flush=True)
            return exit_code(status)
        time.sleep(poll_s)


def exit_code(status: Mapping[str, Any]) -> int:
    """What the driver ended with, or what to make of its never having run to its end."""
    if status.get("jobStatus") == "SUCCEEDED":
        return _DONE
    said = _DRIVER_EXIT.search(status.get("message", ""))
    if said is not None:
        return int(said[1])
    if status.get("reason") == "AppFailed":
        return _FAILED
    return _REFUSED if status.get("reason") == "ValidationFailed" else _RETRY


def is_refusal(error: Exception) -> bool:
    """Whether the API server will say the same again: no such RayJob, no right to it, nothing that it can read."""
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in _PASSING


def main() -> int:
    """Start a copy of the RayJob named on the command line, and wait for its end."""
    try:
        return start_and_wait()
    except _AWAY as error:
        refused = is_refusal(error)
        print(f"The API server {'refuses' if refused else 'stays away'}: {error}", file=sys.stderr, flush=True)
        return _REFUSED if refused else _RETRY


def start_and_wait() -> int:
    """What ``main`` does with an API server that answers."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    rayjobs, job_name, job_uid = RayJobs(server, ACCOUNT), os.environ["JOB_NAME"], os.environ.get("JOB_UID")
    name = name_of_copy(job_name, job_uid)
    rayjobs.create(copy_of(rayjobs.get(sys.argv[1]), job_name, job_uid))
    print(f"{name} is to run; waiting for its end.", flush=True)
    return wait_for_end(rayjobs, name, poll_s=POLL_S, patience_s=PATIENCE_S)


if __name__ == "__main__":
    sys.exit(main())
