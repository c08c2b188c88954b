"""S3 that fails in every way we know of, under whole runs: the labels are those of a run without faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sam3lt_ray.errors import EXIT_DONE, EXIT_FAILED, EXIT_RETRY
from tests.faults.storage_runs import Reference, make_reference, on_s3
from tests.servers.faults import Fault
from tests.servers.moto_s3 import MotoS3

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(600)]

ALWAYS = 1_000_000
STALL_S = 30.0

# Name, where, and the faults ordered at the start of a run.
FAULTS: dict[str, tuple[str, list[Fault]]] = {
    "500": ("every fifth request", [Fault("status", ALWAYS, status=500, code="InternalError", chance=0.2)]),
    "503 SlowDown": (
        "bursts of six requests in a row",
        [Fault("status", 6, status=503, code="SlowDown", after=after) for after in (15, 20, 25, 30, 35)],
    ),
    "connection closed, no answer": ("every fifth request", [Fault("refuse", ALWAYS, chance=0.2)]),
    "connection reset": ("half way through every third body", [Fault("reset_body", ALWAYS, "GetObject", chance=0.35)]),
    "silence of 30 s": (
        "half way through six bodies, and before six answers to PUT and GET",
        [
            Fault("stall_body", 6, "GetObject", delay_s=STALL_S, chance=0.3),
            Fault("delay", 3, "GetObject", delay_s=STALL_S, after=8),
            Fault("delay", 3, "PutObject", "labels/", delay_s=STALL_S, after=2),
        ],
    ),
    "body cut": ("half way through every third body", [Fault("cut_body", ALWAYS, "GetObject", chance=0.35)]),
    "body shorter than asked for": (
        "every third answer holds half, and says so in Content-Length",
        [Fault("short_body", ALWAYS, "GetObject", chance=0.35)],
    ),
    "listing cut short": (
        "every third listing ends in the middle, and says so",
        [Fault("short_body", ALWAYS, "ListObjectsV2", chance=0.35)],
    ),
    "answer lost": ("every third PUT, which was done", [Fault("lose_answer", ALWAYS, "PutObject", chance=0.35)]),
    "409": (
        "every third PUT",
        [Fault("status", ALWAYS, "PutObject", status=409, code="ConditionalRequestConflict", chance=0.35)],
    ),
}


def _mixed() -> list[Fault]:
    """Some of everything: what the everyday tests do."""
    rare = 0.06
    return [
        Fault("status", ALWAYS, status=500, code="InternalError", chance=rare),
        Fault("status", 6, status=503, code="SlowDown", after=20),
        Fault("refuse", ALWAYS, chance=rare),
        Fault("reset_body", ALWAYS, "GetObject", chance=rare),
        Fault("cut_body", ALWAYS, "GetObject", chance=rare),
        Fault("short_body", ALWAYS, "GetObject", chance=rare),
        Fault("short_body", ALWAYS, "ListObjectsV2", chance=rare),
        Fault("stall_body", 1, "GetObject", "in/", delay_s=STALL_S, after=1),
        Fault("delay", 1, "PutObject", "labels/", delay_s=STALL_S, after=3),
        Fault("lose_answer", ALWAYS, "PutObject", chance=2 * rare),
        Fault("status", ALWAYS, "PutObject", status=409, code="ConditionalRequestConflict", chance=2 * rare),
    ]


def test_some_of_everything(
    moto_s3: MotoS3, reference: Reference, tmp_path: Path, fault_row: Callable[..., None]
) -> None:
    run = on_s3(moto_s3.new_bucket(), reference, tmp_path)
    for fault in _mixed():
        moto_s3.spoil(fault)
    run.finish()
    moto_s3.clear_faults()
    twice = run.assert_equals(reference)
    fault_row("all S3 faults together", "6 % of requests each", 1, twice, f"{len(run.exit_codes)} starts")


@pytest.mark.faults_long
@pytest.mark.parametrize("input_format", ["folder", "parquet"])
def test_some_of_everything_with_other_inputs(
    moto_s3: MotoS3, tmp_path: Path, fault_row: Callable[..., None], input_format: str
) -> None:
    undisturbed = make_reference(tmp_path / "reference", input_format)
    trials, twice, starts = 3, 0, 0
    for trial in range(trials):
        moto_s3.reset(seed=trial)
        run = on_s3(moto_s3.new_bucket(), undisturbed, tmp_path)
        run.tally = tmp_path / f"tally-{trial}"
        for fault in _mixed():
            moto_s3.spoil(fault)
        run.finish()
        moto_s3.clear_faults()
        twice += run.assert_equals(undisturbed)
        starts += len(run.exit_codes)
    fault_row(f"all S3 faults together, {input_format}", "6 % of requests each", trials, twice, f"{starts} starts")


@pytest.mark.faults_long
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault(
    moto_s3: MotoS3, reference: Reference, tmp_path: Path, fault_row: Callable[..., None], name: str
) -> None:
    where, faults = FAULTS[name]
    trials, twice, starts = 3, 0, 0
    for trial in range(trials):
        moto_s3.reset(seed=trial)
        run = on_s3(moto_s3.new_bucket(), reference, tmp_path)
        run.tally = tmp_path / f"tally-{trial}"
        for fault in faults:
            moto_s3.spoil(fault)
        run.finish()
        moto_s3.clear_faults()
        twice += run.assert_equals(reference)
        starts += len(run.exit_codes)
    fault_row(name, where, trials, twice, f"{starts} starts")


def test_a_store_that_ignores_conditions(
    moto_s3: MotoS3, reference: Reference, tmp_path: Path, fault_row: Callable[..., None]
) -> None:
    run = on_s3(moto_s3.new_bucket(), reference, tmp_path)
    moto_s3.ignore_conditions()
    moto_s3.spoil(Fault("lose_answer", ALWAYS, "PutObject", "labels/", chance=0.3))
    run.finish()
    moto_s3.clear_faults()
    assert any("ignores If-None-Match" in message for message in run.messages)
    twice = run.assert_equals(reference)
    fault_row("store ignores If-None-Match", "all PUTs, every third answer to one lost", 1, twice, "said at the start")


def test_credentials_that_expire_in_the_middle(
    moto_s3: MotoS3, reference: Reference, tmp_path: Path, fault_row: Callable[..., None]
) -> None:
    run = on_s3(moto_s3.new_bucket(), reference, tmp_path)
    # From the third unit on nobody is let in any more, whatever is asked.
    moto_s3.spoil(Fault("status", ALWAYS, "PutObject", "labels/", 403, "ExpiredToken", after=2, spreads=True))
    assert run.start() is None
    assert run.exit_codes == [EXIT_RETRY]
    assert "have expired. Renew them and start again" in run.errors[0]
    moto_s3.clear_faults()
    assert len(list(run.store.list("labels"))) == 2
    run.forget_lease()
    summary = run.start()
    assert summary is not None
    assert summary.exit_code == EXIT_DONE
    twice = run.assert_equals(reference)
    fault_row("credentials expire", "at the third PUT of labels, for everything", 1, twice, "exit code 75, then 0")


@pytest.mark.faults_long
@pytest.mark.parametrize("everything", [False, True], ids=["writing labels", "everything"])
def test_access_that_is_withdrawn_in_the_middle(
    moto_s3: MotoS3, reference: Reference, tmp_path: Path, fault_row: Callable[..., None], everything: bool
) -> None:
    run = on_s3(moto_s3.new_bucket(), reference, tmp_path)
    moto_s3.spoil(Fault("status", ALWAYS, "PutObject", "labels/", 403, "AccessDenied", after=2, spreads=everything))
    assert run.start() is None
    assert run.exit_codes == [EXIT_FAILED]
    assert "is denied" in run.errors[0]
    assert everything or "labels of 4 units in a row could not be stored" in run.errors[0]
    assert run.images_labeled <= reference.images_labeled, "it began another pass for nothing"
    moto_s3.clear_faults()
    run.forget_lease()
    run.finish()
    twice = run.assert_equals(reference)
    where = "for everything" if everything else "for PUT of labels"
    fault_row("access is denied", f"from the third PUT of labels on, {where}", 1, twice, "exit code 1, then 0")


def test_an_output_that_may_not_be_written_is_refused_at_once(
    moto_s3: MotoS3, reference: Reference, tmp_path: Path
) -> None:
    run = on_s3(moto_s3.new_bucket(), reference, tmp_path)
    moto_s3.spoil(Fault("status", ALWAYS, "PutObject", status=403, code="AccessDenied"))
    assert run.start() is None
    assert run.exit_codes == [2]
    assert "is denied" in run.errors[0]
    assert run.images_labeled == 0
    moto_s3.clear_faults()
    assert list(run.store.list("")) == []


@pytest.mark.faults_long
def test_a_store_that_goes_away_for_good(
    moto_s3: MotoS3, reference: Reference, tmp_path: Path, fault_row: Callable[..., None]
) -> None:
    run = on_s3(moto_s3.new_bucket(), reference, tmp_path)
    moto_s3.spoil(Fault("status", ALWAYS, "PutObject", "labels/", 503, "ServiceUnavailable", after=2, spreads=True))
    assert run.start() is None
    assert run.exit_codes == [EXIT_RETRY]
    assert "kept failing" in run.errors[0]
    moto_s3.clear_faults()
    run.forget_lease()
    run.finish()
    twice = run.assert_equals(reference)
    fault_row("503 for good", "from the third PUT of labels on, for everything", 1, twice, "exit code 75, then 0")
