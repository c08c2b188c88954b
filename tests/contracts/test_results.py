"""What is made of a run's labels, whatever store the run is in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.exports.coco import export_coco
from sam3lt_ray.labels.counting import summarize
from sam3lt_ray.labels.reading import RunReader
from sam3lt_ray.report.page import write_report
from sam3lt_ray.storage.store import RunStore, open_store
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, write_run
from tests.servers.s3_server import S3Bucket

CAT = Label(3, "cat", ("cat",))


@pytest.fixture(params=["local", "moto"])
def store(request: pytest.FixtureRequest) -> RunStore:
    """An empty run directory on each kind of store."""
    if request.param == "local":
        return open_store(str(request.getfixturevalue("tmp_path") / "run"), StorageSettings())
    bucket: S3Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return open_store(bucket.uri("runs/one"), bucket.storage())


def test_a_run_is_read_counted_exported_and_reported(store: RunStore) -> None:
    mask = np.zeros((48, 80), dtype=bool)
    mask[5:30, 10:60] = True
    images = [
        make_image(f"{n}.jpg", index=n, presence={3: 0.9}, instances=[make_instance(mask, label_id=3, score=0.8)])
        for n in range(5)
    ]
    images.append(make_failed_image("5.jpg", index=5))
    write_run(store, images, [CAT], images_per_unit=2)
    reader = RunReader(store)

    assert list(reader.iter_images()) == images
    assert summarize(reader).images_by_status == {"ok": 5, "error": 1}
    assert export_coco(reader, store, kind="dataset").annotations == 5
    assert len(json.loads(store.read("exports/coco/instances.json"))["images"]) == 5
    location = write_report(reader, store, summary={}, evaluation=None, images=lambda _: None)
    assert location == store.location("report/index.html")
    assert store.read("report/index.html").startswith(b"<!doctype html>")
