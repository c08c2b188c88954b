"""report/index.html: a run on one page that needs nothing else, neither network nor scripts."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import jinja2
import numpy as np
import numpy.typing as npt

from sam3lt_ray.errors import Sam3ltError
from sam3lt_ray.evaluation.figures import EvaluationReport, LabelFigures
from sam3lt_ray.images.decode import decode_image
from sam3lt_ray.labels.counting import LabelCounts, RunCounts, summarize
from sam3lt_ray.labels.reading import LabeledImage, RunReader
from sam3lt_ray.report.charts import HEIGHT, WIDTH, score_bars, sparkline
from sam3lt_ray.report.colors import css_color, label_color
from sam3lt_ray.report.contact_sheet import choose_images
from sam3lt_ray.report.format import format_count, format_duration, format_percent, format_share
from sam3lt_ray.report.overlay import render_overlay, shown_instances
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.vocabulary.labels import Label

REPORT_PATH: Final = "report/index.html"
_OVERLAY_SIDE = 560
_JPEG_QUALITY = 82
_MAX_PIXELS = 200_000_000


def write_report(
    reader: RunReader,
    store: RunStore,
    *,
    summary: Mapping[str, Any],
    evaluation: EvaluationReport | None,
    images: Callable[[LabeledImage], bytes | None],
    max_images: int = 24,
    path: str = REPORT_PATH,
) -> str:
    """Write the page of a run, replacing an earlier one.

    Args:
        reader: The run.
        store: Where to write; normally the run directory.
        summary: Content of run_summary.json; may be empty.
        evaluation: The run's evaluation, if there is one.
        images: Fetches the file of an image; None: it is not there any more, and a grey area takes its place.
        max_images: Pictures on the contact sheet.
        path: Of the page in the store.

    Returns:
        Location of the page.

    Raises:
        InputError: There is no run.
    """
    thresholds = reader.thresholds()
    labels = reader.vocabulary().labels
    names = {label.id: label.name for label in labels}
    chosen = choose_images(reader.iter_images(), thresholds, max_images)
    max_pixels = int(reader.run.get("config", {}).get("input", {}).get("max_pixels", _MAX_PIXELS))
    counts = summarize(reader)
    page = _template().render(
        run_uri=reader.store.uri,
        counts=counts,
        exported=sum(counts.labels[label.id].instances_from(thresholds[label.id]) for label in labels),
        labels=_label_rows(labels, counts, thresholds, evaluation),
        bars=score_bars(counts.score_histogram, reader.default_score_threshold()),
        chart={"width": WIDTH, "height": HEIGHT},
        default_threshold=reader.default_score_threshold(),
        pictures=[_picture(image, names, thresholds, images, max_pixels) for image in chosen],
        evaluation=evaluation,
        summary=summary,
        session=summary.get("session") or {},
        provenance=_provenance(reader.run),
    )
    store.replace(path, page.encode())
    return store.location(path)


@dataclass(frozen=True, slots=True)
class _LabelRow:
    """One line of the table of labels."""

    name: str
    prompts: str
    color: str
    threshold: float
    present_share: float
    exported: int
    counts: LabelCounts
    curve: str
    figures: LabelFigures | None


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture of the contact sheet; ``note`` says why the image itself is missing, if it is."""

    source: str
    width: int
    height: int
    caption: str
    found: Sequence[str]
    note: str | None


def _label_rows(
    labels: Sequence[Label],
    counts: RunCounts,
    thresholds: Mapping[int, float],
    evaluation: EvaluationReport | None,
) -> list[_LabelRow]:
    figures = {label.label_id: label for label in evaluation.labels} if evaluation is not None else {}
    num_images = max(1, counts.images_by_status["ok"])
    return [
        _LabelRow(
            name=label.name,
            prompts=", ".join(label.prompts),
            color=css_color(label_color(position, label.name)),
            threshold=thresholds[label.id],
            present_share=counts.labels[label.id].images_present / num_images,
            exported=counts.labels[label.id].instances_from(thresholds[label.id]),
            counts=counts.labels[label.id],
            curve=sparkline(counts.labels[label.id].score_histogram),
            figures=figures.get(label.id),
        )
        for position, label in enumerate(labels)
    ]


def _picture(
    labeled: LabeledImage,
    names: Mapping[int, str],
    thresholds: Mapping[int, float],
    images: Callable[[LabeledImage], bytes | None],
    max_pixels: int,
) -> _Picture:
    image_hwc, note = _pixels(labeled, images, max_pixels)
    overlay = render_overlay(image_hwc, labeled, names, _OVERLAY_SIDE, score_thresholds=thresholds)
    buffer = io.BytesIO()
    overlay.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    shown = shown_instances(labeled, thresholds)
    return _Picture(
        source="data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
        width=overlay.width,
        height=overlay.height,
        caption=labeled.key,
        found=[f"{names.get(found.label_id, found.label_id)} {found.score:.2f}" for found in shown],
        note=note,
    )


def _pixels(
    labeled: LabeledImage, images: Callable[[LabeledImage], bytes | None], max_pixels: int
) -> tuple[npt.NDArray[np.uint8] | None, str | None]:
    """The image, or why it cannot be shown: a report must not fail because a picture is gone."""
    try:
        data = images(labeled)
        if data is None:
            return None, "The image is not available any more."
        image_hwc = decode_image(data, max_pixels=max_pixels)
    except Sam3ltError as error:
        return None, error.message
    if image_hwc.shape[:2] != (labeled.height, labeled.width):
        return None, "The image has changed since it was labeled."
    return image_hwc, None


def _provenance(run: Mapping[str, Any]) -> dict[str, str]:
    """What made these labels, as text by heading."""
    shown = {"Fingerprint": run.get("fingerprint"), "Model": run.get("model"), "Configuration": run.get("config")}
    known = {"fingerprint", "model", "config"}
    shown |= {key.replace("_", " ").capitalize(): value for key, value in run.items() if key not in known}
    return {
        heading: value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        for heading, value in shown.items()
        if value is not None
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(count=format_count, share=format_share, percent=format_percent, duration=format_duration)
    source = resources.files("sam3lt_ray.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(source)
