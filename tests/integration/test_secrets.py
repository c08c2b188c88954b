"""Planted secrets are in no file of a run, no output, no log and no report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam3lt_ray.cli import main
from sam3lt_ray.config.schema import Config
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.storage.store import open_store
from tests.servers.moto_s3 import MotoS3
from tests.servers.s3_server import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Bucket
from tests.standin import load_standin, plain_image

PASSWORD = "planted/pass+word=0123456789"
SIGNATURE = "plantedsignature0123456789abcdef"
SESSION_TOKEN = "planted-session-token-0123456789"
HUB_TOKEN = "hf_plantedHubToken0123456789"
PLANTED = (PASSWORD, SIGNATURE, SESSION_TOKEN, HUB_TOKEN, SECRET_ACCESS_KEY, ACCESS_KEY_ID, "AKIAPLANTEDPLANTED01")


@pytest.fixture
def bucket(moto_s3: MotoS3, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    found = moto_s3.new_bucket()
    for number in range(6):
        found.put(f"in/{number}.png", plain_image((number, 80, 90)) if number else b"no image")
    return found


def _settings(bucket: S3Bucket, **changes: str) -> dict[str, str]:
    return {
        "run.output": bucket.uri("run"),
        "input.format": "folder",
        "input.uri": bucket.uri("in/"),
        "vocabulary": "demo",
        "storage.endpoint_url": bucket.server.endpoint_url,
        **changes,
    }


def _arguments(settings: dict[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def _assert_clean(text: str, where: str) -> None:
    assert [secret for secret in PLANTED if secret in text] == [], where


@pytest.mark.usefixtures("local_ray")
def test_nothing_of_a_run_holds_a_secret(
    bucket: S3Bucket, moto_s3: MotoS3, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "sam3lt_ray")
    config = Config.model_validate(
        {
            "run": {"output": bucket.uri("run")},
            "input": {"format": "folder", "uri": bucket.uri("in/"), "images_per_unit": 2},
            "vocabulary": ["cat"],
            "storage": {"endpoint_url": bucket.server.endpoint_url},
        }
    )
    told = f"no, {ACCESS_KEY_ID} with {SECRET_ACCESS_KEY} and {SESSION_TOKEN}: s3://x?X-Amz-Signature={SIGNATURE}"
    moto_s3.fail_next(2, status=500, code="InternalError", message=told, kind="PutObject", key_part="labels/")
    moto_s3.fail_next(1, status=403, code="AccessDenied", message=told, kind="GetObject", key_part="in/3.png")
    assert label_run(config, load_engine=load_standin).exit_code == 0
    for command in (["status"], ["report"]):
        assert main([*command, config.run.output, "--set", f"storage.endpoint_url={moto_s3.endpoint_url}"]) == 0
    files = list(open_store(config.run.output, config.storage).list(""))
    assert {"run.json", "run_summary.json", "report/index.html"} <= {file.path for file in files}
    for file in files:
        _assert_clean(bucket.get(f"run/{file.path}").decode("latin-1"), file.path)
    _assert_clean("".join(capfd.readouterr()), "output")
    _assert_clean(caplog.text, "log")
    import ray

    for path in Path(ray._private.worker._global_node.get_logs_dir_path()).rglob("*"):
        if path.is_file():
            _assert_clean(path.read_text(encoding="latin-1"), str(path))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"input.uri": f"s3://AKIAPLANTEDPLANTED01:{PASSWORD}@bucket/in"}, 2),
        ({"run.output": f"s3://AKIAPLANTEDPLANTED01:{PASSWORD}@bucket/run"}, 2),
        ({"input.uri": f"s3://bucket/in?X-Amz-Signature={SIGNATURE}&X-Amz-Credential=AKIAPLANTEDPLANTED01"}, 2),
        ({"storage.endpoint_url": f"https://user:{PASSWORD}@store.example"}, 2),
        ({"storage.endpoint_url": f"ftp://user:{PASSWORD}@store.example"}, 2),
        ({"storage.secret_access_key": PASSWORD}, 2),
        ({"compute.ray_address": f"ray://user:{PASSWORD}@head:10001"}, 2),
        ({"model.checkpoint": f"https://user:{PASSWORD}@hub.example/x?token={SIGNATURE}"}, 2),
    ],
)
def test_secrets_in_settings_are_refused_and_not_repeated(
    bucket: S3Bucket, capfd: pytest.CaptureFixture[str], changes: dict[str, str], code: int
) -> None:
    for options in ([], ["--debug"]):
        assert main(["plan", *_arguments(_settings(bucket) | changes), *options]) == code
    _assert_clean("".join(capfd.readouterr()), str(changes.keys()))


def test_a_password_in_the_environments_endpoint_is_not_repeated(
    bucket: S3Bucket, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(bucket)
    endpoint = settings.pop("storage.endpoint_url").removeprefix("http://")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{PASSWORD}@{endpoint}")
    for command in ("plan", "doctor"):
        for options in ([], ["--debug"]):
            assert main([command, *_arguments(settings), *options]) != 0
    _assert_clean("".join(capfd.readouterr()), "output")


def test_a_manifest_with_a_signed_uri_is_refused_by_row(bucket: S3Bucket, capfd: pytest.CaptureFixture[str]) -> None:
    bucket.put(
        "list.csv", f"uri\n{bucket.uri('in/1.png')}\n{bucket.uri('in/2.png')}?X-Amz-Signature={SIGNATURE}\n".encode()
    )
    changes = {"input.format": "manifest", "input.uri": bucket.uri("list.csv")}
    assert main(["plan", *_arguments(_settings(bucket) | changes)]) == 2
    shown = "".join(capfd.readouterr())
    assert "Row 2" in shown
    _assert_clean(shown, "output")


def test_the_text_of_an_unexpected_error_loses_its_secrets(
    bucket: S3Bucket, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError(
            f"Invalid endpoint: https://user:{PASSWORD}@host/?X-Amz-Signature={SIGNATURE} {SECRET_ACCESS_KEY}"
        )

    monkeypatch.setattr("sam3lt_ray.pipeline.planning.plan_run", fail)
    for options in ([], ["--debug"]):
        assert main(["plan", *_arguments(_settings(bucket)), *options]) == 1
    shown = "".join(capfd.readouterr())
    assert "Invalid endpoint: https://***@host/?X-Amz-Signature=***" in shown
    _assert_clean(shown, "output")
