"""``sam3lt label`` for ``ray job submit`` and schedulers: the same arguments, the same exit codes.

It joins the Ray cluster it finds itself on; without one it starts Ray on this machine.
"""

from __future__ import annotations

import sys

from sam3lt_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["label", *sys.argv[1:]]))
