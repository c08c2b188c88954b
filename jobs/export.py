"""``sam3lt export`` for schedulers and containers: the same arguments (the format first), the same exit codes."""

from __future__ import annotations

import sys

from sam3lt_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
