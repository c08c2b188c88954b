"""``python -m tests.label_with_standin CONFIG.json SECONDS_PER_IMAGE``: a driver process for tests that kill it."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from sam3lt_ray.config.schema import Config
from sam3lt_ray.errors import Sam3ltError
from sam3lt_ray.pipeline.run import label_run
from tests.standin import load_standin


def main() -> int:
    """Run the job; returns its exit code."""
    config = Config.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    load_engine = partial(load_standin, seconds_per_image=float(sys.argv[2]))
    try:
        summary = label_run(config, load_engine=load_engine)
    except Sam3ltError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(summary.message)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
