"""Which settings may change between two starts of a run."""

from __future__ import annotations

import pytest

from sam3lt_ray.config.fingerprint import declared_settings, label_settings
from sam3lt_ray.config.load import load_config
from sam3lt_ray.config.schema import Config

BASE = ("run.output=runs/x", "input.format=folder", "input.uri=images/", "vocabulary=[cat]")

CHANGES_LABELS = {
    "input.format",
    "input.image_column",
    "input.key_column",
    "input.uri_column",
    "input.images_per_group",
    "input.images_per_unit",
    "input.max_unit_mb",
    "input.max_pixels",
    "input.max_image_mb",
    "labeling.score_floor",
    "labeling.mask_threshold",
    "labeling.merge_iou",
    "compute.precision",
}


def config(*overrides: str) -> Config:
    return load_config([], [*BASE, *overrides]).config


def test_every_setting_declares_whether_it_changes_labels() -> None:
    undeclared = [name for name, declared in declared_settings() if declared is None]
    assert undeclared == []


def test_the_settings_that_change_labels_are_these() -> None:
    assert {name for name, declared in declared_settings() if declared} == CHANGES_LABELS
    assert set(label_settings(config())) == CHANGES_LABELS


@pytest.mark.parametrize(
    "override", ["compute.actors=7", "run.output=elsewhere", "storage.region=r", "labeling.score_threshold=0.9"]
)
def test_other_settings_leave_the_fingerprint_alone(override: str) -> None:
    assert label_settings(config(override)) == label_settings(config())


@pytest.mark.parametrize("override", ["labeling.score_floor=0.3", "compute.precision=bf16", "input.max_unit_mb=64"])
def test_settings_that_change_labels_change_the_fingerprint(override: str) -> None:
    before, after = label_settings(config()), label_settings(config(override))
    assert after[override.partition("=")[0]] != before[override.partition("=")[0]]
