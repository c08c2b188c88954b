"""Checking a machine and a config before a run: each part is fine, or there is something to do.

Ray and torch are asked in processes of their own: a broken installation may end the process that imports it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3lt_ray.config.load import LoadedConfig
from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import Sam3ltError
from sam3lt_ray.redaction import without_credentials
from sam3lt_ray.terminal import count_of

MIN_PYTHON = (3, 11)
_IMPORT_TIMEOUT_S = 180
_RAY_SCRIPT = "import json, ray; print(json.dumps({'version': ray.__version__}))"
_TORCH_SCRIPT = """
import json, torch
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "version": torch.__version__,
    "gpus": [f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices],
}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer.

    Attributes:
        subject: What was looked at.
        ok: Whether a run can use it.
        text: What it is, or what to do.
    """

    subject: str
    ok: bool
    text: str


def examine(loaded: LoadedConfig | None = None) -> Iterator[Finding]:
    """Look at everything, one finding after the other; nothing is raised.

    Args:
        loaded: With a config its checkpoint, vocabulary, input and output are looked at too. The output is written
            to: a probe file is created and removed.
    """
    yield check_python(sys.version_info[:2])
    yield _guarded("Ray", lambda: f"{ask_python(_RAY_SCRIPT)['version']}")
    torch = _guarded_torch()
    gpus = len(torch["gpus"]) if isinstance(torch, dict) else 0
    yield from _describe_torch(torch, loaded.config if loaded is not None else None)
    if loaded is None:
        yield _guarded("checkpoint", lambda: _describe_checkpoint("demo", None))
        return
    config = loaded.config
    yield _guarded("checkpoint", lambda: _describe_checkpoint(config.model.checkpoint, config.model.revision))
    yield _guarded("vocabulary", lambda: _describe_vocabulary(loaded))
    if gpus:
        yield _guarded("CPU", lambda: _describe_cores(loaded, gpus))
    yield _guarded("input", lambda: _describe_input(config))
    yield _guarded("output", lambda: _describe_output(config))


def check_python(version: tuple[int, ...]) -> Finding:
    """Whether this Python is new enough."""
    wanted = ".".join(map(str, MIN_PYTHON))
    if tuple(version[:2]) < MIN_PYTHON:
        return Finding("Python", False, f"{platform.python_version()} is too old; install {wanted} or newer.")
    return Finding("Python", True, platform.python_version())


def ask_python(script: str) -> dict[str, Any]:
    """Run a script in a fresh interpreter and read the JSON it prints last.

    Raises:
        RuntimeError: The script failed; the message is its last line.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"does not answer within {_IMPORT_TIMEOUT_S} s.") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise RuntimeError(f"cannot be imported: {lines[-1]}. Install it again.")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _guarded(subject: str, describe: Callable[[], str]) -> Finding:
    """A finding from a function that says what is there, or raises with what to do."""
    try:
        return Finding(subject, True, describe())
    except Sam3ltError as error:
        return Finding(subject, False, without_credentials(" ".join(error.message.split())))
    except Exception as error:  # the doctor's answer to whatever is broken is a line
        text = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
        return Finding(subject, False, without_credentials(" ".join(text.split())))


def _guarded_torch() -> dict[str, Any] | RuntimeError:
    try:
        return ask_python(_TORCH_SCRIPT)
    except RuntimeError as error:
        return error


def _describe_torch(torch: dict[str, Any] | RuntimeError, config: Config | None) -> Iterator[Finding]:
    if isinstance(torch, RuntimeError):
        yield Finding("torch", False, str(torch))
        return
    yield Finding("torch", True, str(torch["version"]))
    yield check_gpus(torch["gpus"], wants_cuda=config is not None and config.compute.device == "cuda")


def check_gpus(gpus: list[str], *, wants_cuda: bool) -> Finding:
    """No GPU is fine, unless the config asks for one."""
    if gpus:
        return Finding("GPU", True, ", ".join(gpus))
    if wants_cuda:
        advice = "none here, but compute.device is cuda: check driver and torch build, or set compute.device=auto."
        return Finding("GPU", False, advice)
    return Finding("GPU", True, "none here; the CPU is used")


def _describe_checkpoint(name: str, revision: str | None) -> str:
    from sam3lt_ray.engine.checkpoint import resolve_checkpoint

    checkpoint = resolve_checkpoint(name, revision)
    return f"{checkpoint.name} ({checkpoint.model_type}, {checkpoint.image_size} px) in {checkpoint.folder}"


def _describe_vocabulary(loaded: LoadedConfig) -> str:
    from sam3lt_ray.vocabulary.loading import load_vocabulary

    vocabulary = load_vocabulary(loaded.config.vocabulary, base_dir=loaded.base_dir, written=loaded.inline_vocabulary)
    return f"{count_of(len(vocabulary.labels), 'label')}, {count_of(len(vocabulary.prompts), 'prompt')}"


def _describe_cores(loaded: LoadedConfig, num_gpus: int) -> str:
    from sam3lt_ray.pipeline.feeding import cores_per_gpu
    from sam3lt_ray.vocabulary.loading import load_vocabulary

    num_prompts = len(load_vocabulary(loaded.config.vocabulary, base_dir=loaded.base_dir).prompts)
    wanted, there = num_gpus * cores_per_gpu(num_prompts), len(os.sched_getaffinity(0))
    text = f"{there} cores; {num_gpus} GPUs with {num_prompts} prompts keep about {wanted} busy"
    return text if there >= wanted else f"{text}: the GPUs will wait for images, more cores would label faster"


def _describe_input(config: Config) -> str:
    from sam3lt_ray.inputs.listing import list_shards

    return f"{count_of(len(list_shards(config.input, config.storage)), 'shard')} in {config.input.uri}"


def _describe_output(config: Config) -> str:
    from sam3lt_ray.pipeline.nesting import refuse_file
    from sam3lt_ray.storage.filesystem import is_s3, local_path
    from sam3lt_ray.storage.store import open_store, probe_conditional_put

    refuse_file(config)
    folder = None if is_s3(config.run.output) else Path(local_path(config.run.output))
    with nullcontext() if folder is None else _leaving_no_folders(folder):
        keeps_promise = probe_conditional_put(open_store(config.run.output, config.storage))
    if keeps_promise:
        return f"{config.run.output} can be written"
    return f"{config.run.output} can be written; its server ignores If-None-Match, so run one job at a time"


@contextmanager
def _leaving_no_folders(folder: Path) -> Iterator[None]:
    """Remove the folders on the way to a place, and the place, that were not there before, if they are empty."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for place in new:
                place.rmdir()
