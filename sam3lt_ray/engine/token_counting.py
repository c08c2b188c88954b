"""Counting the tokens of prompts without loading torch: a driver's memory is small, and it should stay so.

The checkpoint's tokenizer comes with transformers and torch, some 200 MB which a driver would keep as long as its run
lasts, and never use again. So a process of its own counts, and ends. ``python -m sam3lt_ray.engine.token_counting`` is
that process: the checkpoint first, then a prompt a line, each a JSON value; it answers each with a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from sam3lt_ray.engine.checkpoint import Checkpoint
from sam3lt_ray.engine.tokenizer import PromptTokenizer
from sam3lt_ray.errors import CheckpointError

_LONGEST_END_S: Final = 10.0


@contextmanager
def token_counter(checkpoint: Checkpoint) -> Iterator[Callable[[str], int]]:
    """Give a function that says how many tokens a prompt has, begin and end marks included.

    It begins to load at once, beside whatever the caller does before the first prompt. Where transformers is loaded in
    this process anyway, nothing is started.

    Args:
        checkpoint: Whose tokenizer.

    Raises:
        CheckpointError: By the function: there is no tokenizer, or it cannot be loaded.
    """
    if "transformers" in sys.modules:
        yield PromptTokenizer(checkpoint).count_tokens
        return
    with tempfile.TemporaryFile() as said, _start(said) as process:
        try:
            yield _Counter(process, said, checkpoint).count
        finally:
            _end(process)


class _Counter:
    """The side that asks."""

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes], checkpoint: Checkpoint) -> None:
        self._process = process
        self._said = said
        self._checkpoint = checkpoint
        self._is_ready = False

    def count(self, prompt: str) -> int:
        if not self._is_ready:
            self._ask({**asdict(self._checkpoint), "folder": str(self._checkpoint.folder)})
            self._is_ready = True
        return int(self._ask(prompt))

    def _ask(self, question: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if not answer.endswith(b"\n"):
            raise CheckpointError(self._why_it_ended())
        content = json.loads(answer)
        if "error" in content:
            raise CheckpointError(content["error"])
        return content["answer"]

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        return (
            f"checkpoint {self._checkpoint.name!r}: its tokenizer could not be used: the process that was to count the "
            f"tokens of prompts ended with {code} ({last})."
        )


def _start(said: IO[bytes]) -> subprocess.Popen[bytes]:
    # It finds what this process finds, wherever that was started; and not what lies in the working folder besides.
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it has nothing to lose, and may be in the middle of loading
    process.wait(timeout=_LONGEST_END_S)


def _serve(questions: IO[str], answers: IO[str]) -> None:
    """The side that answers."""

    def answer(**content: object) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    import transformers  # noqa: F401  (what takes long, while the first question is on its way)

    described = questions.readline()
    if not described:  # nobody asks any more
        return
    content = json.loads(described)
    try:
        tokenizer = PromptTokenizer(Checkpoint(**{**content, "folder": Path(content["folder"])}))
    except CheckpointError as error:
        answer(error=error.message)
        return
    answer(answer=None)
    for line in questions:
        answer(answer=tokenizer.count_tokens(json.loads(line)))


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)  # what libraries print is no answer
        _serve(sys.stdin, stdout)
