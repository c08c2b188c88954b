"""``python -m sam3lt_ray`` is ``sam3lt``."""

from __future__ import annotations

import sys

from sam3lt_ray.cli import main

sys.exit(main())
