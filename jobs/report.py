"""``sam3lt report`` for schedulers and containers: the same arguments, the same exit codes."""

from __future__ import annotations

import sys

from sam3lt_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
