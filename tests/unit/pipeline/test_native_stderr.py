"""What native code writes to descriptor 2 is kept from the terminal; what Python writes is not, nor progress."""

from __future__ import annotations

import json
import subprocess
import sys

_SCRIPT = """
import os, sys
from sam3lt_ray.pipeline.native_stderr import quiet_native_stderr
from sam3lt_ray.progress import progress_for_stderr
before = progress_for_stderr("run"), progress_for_stderr("run", "json")
with quiet_native_stderr():
    os.write(2, b"native noise\\n")
    print("python", file=sys.stderr)
    for listener in before:
        listener.message("hello")
os.write(2, b"native afterwards\\n")
print("python afterwards", file=sys.stderr)
"""


def test_only_python_is_heard_inside_and_everything_outside() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    python, plain, as_json, *afterwards = done.stderr.split("\n")
    assert (python, plain, json.loads(as_json)["message"]) == ("python", "hello", "hello")
    assert afterwards == ["native afterwards", "python afterwards", ""]
