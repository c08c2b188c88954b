"""What native code writes to descriptor 2 is kept from the terminal; what Python writes is not."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import os, sys
from sam3lt_ray.pipeline.native_stderr import quiet_native_stderr
with quiet_native_stderr():
    os.write(2, b"native noise\\n")
    print("progress", file=sys.stderr)
os.write(2, b"native afterwards\\n")
print("python afterwards", file=sys.stderr)
"""


def test_only_python_is_heard_inside_and_everything_outside() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.split("\n") == ["progress", "native afterwards", "python afterwards", ""]
