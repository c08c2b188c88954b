"""``python -m tests.label_with_standin CONFIG.json``: a driver process for tests that do something to it.

``--stop-at MOMENT`` (see :mod:`tests.stopping_store`) holds one commit at an exact instant; ``--machine`` and
``--lease-s`` let two drivers on this machine believe that they are on two.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from sam3lt_ray.commands.label import STOPS_WITHIN_S
from sam3lt_ray.config.schema import Config, StorageSettings
from sam3lt_ray.errors import Sam3ltError
from sam3lt_ray.pipeline import prepare
from sam3lt_ray.pipeline import run as run_module
from sam3lt_ray.pipeline.run import label_run
from sam3lt_ray.progress import LogProgress
from sam3lt_ray.storage import lease_record
from sam3lt_ray.storage.filesystem import is_s3
from sam3lt_ray.storage.lease import Lease
from sam3lt_ray.storage.store import RunStore
from tests.standin import load_after_deaths, load_poisoned, load_standin
from tests.stopping_store import StoppingS3Store, StoppingStore, StopPoint


def main() -> int:
    """Run the job; returns its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--seconds-per-image", type=float, default=0.0)
    parser.add_argument("--labeled", help="file that grows by a byte for each image that is labeled")
    parser.add_argument("--hold", help="folder in which a test asks for a process to be held (HoldPoint)")
    parser.add_argument("--poisoned", action="store_true", help="the engine dies, hangs or starves at certain images")
    parser.add_argument("--deaths", help="folder with a file for each time that loading the engine kills its process")
    parser.add_argument("--stop-at", choices=StopPoint.MOMENTS)
    parser.add_argument("--stop-folder", help="where the stopped process says that it has come there")
    parser.add_argument("--skip", type=int, default=0, help="commits before the one that stops")
    parser.add_argument("--die", action="store_true", help="the committing process kills itself instead of waiting")
    parser.add_argument("--machine", help="name of the machine this process pretends to be on")
    parser.add_argument("--lease-s", type=float)
    options = parser.parse_args()

    if options.stop_at:
        stop = StopPoint(options.stop_at, options.stop_folder, options.skip, options.die)
        prepare.open_store = partial(_stopping_store, stop)  # type: ignore[assignment]
    if options.machine:
        lease_record.socket = _Machine(options.machine)  # type: ignore[assignment]
        lease_record._boot_id = lambda: options.machine
    if options.lease_s:
        run_module.Lease = partial(Lease, duration_s=options.lease_s)  # type: ignore[assignment,misc]
    config = Config.model_validate(json.loads(options.config.read_text()))
    load = load_poisoned if options.poisoned else load_standin
    load_engine = partial(load, seconds_per_image=options.seconds_per_image, labeled=options.labeled, hold=options.hold)
    if options.deaths:
        load_engine = partial(load_after_deaths, load_engine, options.deaths)
    try:
        progress = LogProgress(sys.stdout)
        summary = label_run(config, load_engine=load_engine, progress=progress, stops_within_s=STOPS_WITHIN_S)
    except Sam3ltError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(summary.message)
    return summary.exit_code


def _stopping_store(stop: StopPoint, uri: str, storage: StorageSettings) -> RunStore:
    return StoppingS3Store(uri, storage, stop) if is_s3(uri) else StoppingStore(uri, storage, stop)


class _Machine:
    def __init__(self, name: str) -> None:
        self._name = name

    def gethostname(self) -> str:
        return self._name


if __name__ == "__main__":
    sys.exit(main())
