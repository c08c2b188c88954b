"""Descriptions of services lose their texts and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session
from botocore.loaders import JSONFileLoader, Loader

from sam3lt_ray.storage.lean_models import LeanFileLoader


def without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        emptied = {"documentation": ""} if isinstance(value.get("documentation"), str) else {}
        return {name: without_texts(one) for name, one in value.items()} | emptied
    return [without_texts(one) for one in value] if isinstance(value, list) else value


def test_a_service_is_described_as_by_botocore() -> None:
    plain, lean = Loader(), Loader(file_loader=LeanFileLoader())
    for kind in ("service-2", "endpoint-rule-set-1"):
        model = lean.load_service_model("s3", kind)
        assert model == without_texts(plain.load_service_model("s3", kind))
        assert list(model) == list(plain.load_service_model("s3", kind))
    assert lean.load_data("endpoints") == plain.load_data("endpoints")
    sizes = [len(json.dumps(loader.load_service_model("s3", "service-2"))) for loader in (lean, plain)]
    assert sizes[0] < sizes[1] / 3
    assert lean.list_available_services("service-2") == plain.list_available_services("service-2")


def test_files_that_are_not_there_are_told_as_by_botocore(tmp_path: Path) -> None:
    assert LeanFileLoader().load_file(str(tmp_path / "none")) is None
    assert JSONFileLoader().load_file(str(tmp_path / "none")) is None
    (tmp_path / "one.json").write_text('{"members": {"documentation": {"shape": "Text", "documentation": "says"}}}')
    assert LeanFileLoader().load_file(str(tmp_path / "one")) == {
        "members": {"documentation": {"shape": "Text", "documentation": ""}}
    }


def test_a_client_is_made_of_it() -> None:
    session = botocore.session.get_session()
    session.get_component("data_loader").file_loader = LeanFileLoader()
    client = session.create_client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    url = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
    assert url.startswith("https://bucket.s3.amazonaws.com/key?")
