from __future__ import annotations

import pytest

from sam3lt_ray.redaction import carries_credentials, without_credentials

PLANTED = "planted-secret-0123456789"


def test_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a")
    signed = "https://b.example/k?X-Amz-Credential=AKIA%2F1&x=1&X-Amz-Signature=abc"
    assert without_credentials(signed) == "https://b.example/k?X-Amz-Credential=***&x=1&X-Amz-Signature=***"
    assert without_credentials(f"a key {PLANTED} here") == "a key *** here"
    assert without_credentials("s3://bucket/mail@home/a") == "s3://bucket/mail@home/a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pass@store:8333/x is down", "https://***@store:8333/x is down"),
        ("at http://me:pa/ss@word@store.", "at http://***@store."),
        ("s3://AKIA:se/cr@bucket/x", "s3://***@bucket/x"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ("the key AKIAIOSFODNN7EXAMPLE was used", "the key *** was used"),
        ("GET /x?a=1&sig=abc%3D&token=q HTTP", "GET /x?a=1&sig=***&token=*** HTTP"),
        ("hash#signature of the shard", "hash#signature of the shard"),
    ],
)
def test_what_is_taken_out_and_what_stays(text: str, expected: str) -> None:
    assert without_credentials(text) == expected


def test_the_environments_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SESSION_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, PLANTED)
        assert without_credentials(f"401 for {PLANTED}") == "401 for ***"


@pytest.mark.parametrize(
    "written",
    ["ab/cd+ef=gh ü%", "ab%2Fcd%2Bef%3Dgh%20%C3%BC%25", "ab%2fcd%2bef%3dgh%20%c3%bc%25", "ab/cd%2Bef=gh%20ü%25"],
)
def test_secrets_in_urls(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ab/cd+ef=gh ü%")
    assert without_credentials(f"GET /x?y={written}&z=%2F") == "GET /x?y=***&z=%2F"


def test_a_signed_url_inside_another_url() -> None:
    inner = "https%3A%2F%2Fb.example%2Fk%3FX-Amz-Signature%3Dabc"
    assert without_credentials(f"GET /?url={inner}&a=1") == f"GET /?url={inner[:-3]}***&a=1"


@pytest.mark.parametrize(
    ("uri", "carries"),
    [
        ("s3://bucket/prefix/", False),
        ("s3://bucket/mail@home/what?x=1", False),
        ("s3://bucket/signature=of/x", False),
        ("/data/me@home", False),
        ("s3://KEY:secret@bucket/x", True),
        ("s3://KEY:se/cret@bucket/x", True),
        ("https://me:pa/ss@store", True),
        ("s3://bucket/x?X-Amz-Signature=abc", True),
    ],
)
def test_uris_that_carry_credentials(uri: str, carries: bool) -> None:
    assert carries_credentials(uri) is carries
