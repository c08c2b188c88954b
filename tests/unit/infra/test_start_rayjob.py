"""``jobs/start_rayjob.py`` against a stand-in for the API server."""

from __future__ import annotations

import json
import runpy
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.infra.manifests import overlay
from tests.unit.infra.ray_kinds import RayJobSpec

JOB = Path(__file__).parents[3] / "jobs" / "start_rayjob.py"
start_rayjob = SimpleNamespace(**runpy.run_path(str(JOB)))
JOB, UID = "sam3lt-nightly-29400000", "uid-1"
NAME = start_rayjob.name_of_copy(JOB, UID)
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
REFUSED = {"reason": "ValidationFailed", "message": "no such field"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


class ApiServer:
    """Holds RayJobs; each look at one that was created gives the next of some answers."""

    def __init__(self, answers: list[Any]) -> None:
        (template,) = [manifest for manifest in overlay("scheduled") if manifest["kind"] == "RayJob"]
        self.rayjobs: dict[str, dict[str, Any]] = {"sam3lt-label": template}
        self.created: list[dict[str, Any]] = []
        self._answers = answers
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.check(self)
                name = self.path.rpartition("/")[2]
                if name not in outer.rayjobs:
                    self.answer(404, {})
                elif name == "sam3lt-label":
                    self.answer(200, outer.rayjobs[name])
                else:
                    answer = outer._answers.pop(0)
                    if answer == "broken":
                        self.send_response(200)
                        self.send_header("Content-Length", "1000")
                        self.end_headers()
                        self.wfile.write(b"{")
                        return
                    code, status = (answer, {}) if isinstance(answer, int) else (200, answer)
                    self.answer(code, outer.rayjobs[name] | {"status": status})

            def do_POST(self) -> None:
                outer.check(self)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = body["metadata"]["name"]
                if name in outer.rayjobs:
                    self.answer(409, {})
                    return
                outer.rayjobs[name] = body
                outer.created.append(body)
                self.answer(201, body)

            def answer(self, code: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def check(self, request: BaseHTTPRequestHandler) -> None:
        assert request.headers["Authorization"] == "Bearer secret"
        assert request.path.startswith("/apis/ray.io/v1/namespaces/labeling/rayjobs")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    api = ApiServer(list(request.param))
    thread = threading.Thread(target=api.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield api
    api.http.shutdown()
    api.http.server_close()
    thread.join()


@pytest.fixture
def rayjobs(server: ApiServer, tmp_path: Path) -> Any:
    (tmp_path / "namespace").write_text("labeling")
    (tmp_path / "token").write_text("secret")
    return start_rayjob.RayJobs(server.url, tmp_path)


def run(rayjobs: Any, *, patience_s: float = 60.0) -> int:
    rayjobs.create(start_rayjob.copy_of(rayjobs.get("sam3lt-label"), JOB, UID))
    code: int = start_rayjob.wait_for_end(rayjobs, NAME, poll_s=0.0, patience_s=patience_s)
    return code


@pytest.mark.parametrize("server", [[{}, RUNNING, 503, RUNNING, DONE]], indirect=True)
def test_the_copy_runs_and_belongs_to_the_job_that_made_it(
    server: ApiServer, rayjobs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(rayjobs) == 0
    (copy,) = server.created
    assert copy["spec"] == server.rayjobs["sam3lt-label"]["spec"] | {"suspend": False}
    RayJobSpec.model_validate(copy["spec"])
    # Neither the template nor what a person applies has this one.
    template = server.rayjobs["sam3lt-label"]["metadata"]["labels"]
    assert copy["metadata"]["labels"] == template | {"app.kubernetes.io/managed-by": "start-rayjob"}
    assert "app.kubernetes.io/managed-by" not in template
    (owner,) = copy["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Job", JOB, UID)
    # Otherwise KubeRay finds the Job that waits, takes it for its own submitter, and submits nothing.
    assert copy["metadata"]["name"] != owner["name"]
    assert "503" in capsys.readouterr().err


@pytest.mark.parametrize("server", [[DONE, DONE]], indirect=True)
def test_a_second_start_waits_for_the_copy_of_the_first(server: ApiServer, rayjobs: Any) -> None:
    assert (run(rayjobs), run(rayjobs)) == (0, 0)
    assert len(server.created) == 1


@pytest.mark.parametrize("server", [[503] * 3], indirect=True)
def test_it_does_not_wait_for_ever_for_a_server_that_is_away(server: ApiServer, rayjobs: Any) -> None:
    with pytest.raises(OSError, match="503"):
        run(rayjobs, patience_s=0.0)


def started(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str) -> int:
    """What the program ends with, which has https where the stand-in has http."""
    rayjobs = start_rayjob.RayJobs

    class Here(rayjobs):  # type: ignore[valid-type, misc]
        def __init__(self, url: str, account: Path) -> None:
            super().__init__(server.url, tmp_path)

    monkeypatch.setitem(start_rayjob.main.__globals__, "RayJobs", Here)
    monkeypatch.setitem(start_rayjob.main.__globals__, "POLL_S", 0.0)
    monkeypatch.setitem(start_rayjob.main.__globals__, "PATIENCE_S", 0.0)
    for name, value in {"KUBERNETES_SERVICE_HOST": "x", "KUBERNETES_SERVICE_PORT": "1", "JOB_NAME": JOB}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["start_rayjob.py", template])
    code: int = start_rayjob.main()
    return code


@pytest.mark.parametrize(
    ("server", "template", "code"),
    [
        ([DONE], "sam3lt-label", 0),
        ([503] * 9, "sam3lt-label", 75),  # what Argo tries again, and the CronJob's Job with the same RayJob
        ([401] * 9, "sam3lt-label", 75),  # a token that is renewed
        ([403] * 9, "sam3lt-label", 2),
        ([], "sam3lt-other", 2),
    ],
    indirect=["server"],
)
def test_an_api_server_that_is_away_may_be_back_and_one_that_refuses_does_so_again(
    server: ApiServer, rayjobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, code: int
) -> None:
    assert started(server, tmp_path, monkeypatch, template) == code


@pytest.mark.parametrize("server", [["broken", DONE]], indirect=True)
def test_an_answer_that_breaks_off_is_asked_for_again(rayjobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(rayjobs) == 0
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("server", [[{"jobDeploymentStatus": "ValidationFailed", **REFUSED}]], indirect=True)
def test_it_does_not_wait_for_a_rayjob_that_the_operator_refused(
    rayjobs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(rayjobs) == 2
    assert "no such field" in capsys.readouterr().out


@pytest.mark.parametrize("server", [[]], indirect=True)
def test_a_template_that_is_missing_is_an_error(server: ApiServer, rayjobs: Any) -> None:
    with pytest.raises(OSError, match="404"):
        rayjobs.get("sam3lt-other")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (DONE, 0),
        (
            {
                "jobStatus": "FAILED",
                "reason": "AppFailed",
                "message": "Job entrypoint command failed with exit code 3, last available logs (truncated to ...):",
            },
            3,
        ),
        (
            {
                "jobStatus": "FAILED",
                "reason": "AppFailed",
                "message": "Job entrypoint command failed with exit code 75.",
            },
            75,
        ),
        ({"jobStatus": "FAILED", "reason": "AppFailed", "message": "it was killed"}, 1),
        ({"jobStatus": "RUNNING", "reason": "DeadlineExceeded"}, 75),
        (REFUSED, 2),
    ],
)
def test_exit_codes_are_the_drivers(status: dict[str, Any], code: int) -> None:
    assert start_rayjob.exit_code(status) == code


def test_a_queues_copy_stays_suspended_until_the_queue_lets_it_go() -> None:
    (template,) = [manifest for manifest in overlay("kueue") if manifest["kind"] == "RayJob"]
    copy = start_rayjob.copy_of(template, JOB, None)
    assert copy["metadata"]["name"] == JOB
    assert copy["spec"]["suspend"] is True
    assert copy["metadata"]["ownerReferences"] == []
