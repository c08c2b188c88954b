"""Which files in a run directory are the run's own: a run is never made among others, and discarding leaves them."""

from __future__ import annotations

import re
from typing import Final

from sam3lt_ray.errors import RunMismatchError
from sam3lt_ray.storage.ledger import parse_unit_path
from sam3lt_ray.storage.run_directory import RUN_PATH
from sam3lt_ray.storage.store import RunStore
from sam3lt_ray.terminal import name_some

# Everything that any version has written but units, whose names only the ledger knows. Other names are other people's.
_OWN_PATH: Final = re.compile(
    r"(run|vocabulary|precision|run_summary)\.json|totals\.parquet|input/shards\.parquet|probe"
    r"|(lease|layers)/[^/]+\.json|pass/[0-9a-f]{32}(\.json|/.*)|attempts/.+\.json"
    r"|report/index\.html|exports/evaluation\.json|exports/coco/(instances|results|images)\.json"
    r"|exports/compact/(_compaction\.json|_manifest\.json|\d{12}-\d{9}\.parquet)"
)
_MAX_NAMED: Final = 3


def is_own(path: str) -> bool:
    """Whether a file is one that a run or its commands make under this name."""
    return _OWN_PATH.fullmatch(path) is not None or parse_unit_path(path) is not None


def refuse_foreign_files(store: RunStore) -> None:
    """Refuse a place without a run that holds files of somebody else; what a killed start has left is no reason.

    Hidden files are passed over: systems and editors leave them anywhere.

    Raises:
        RunMismatchError: Names some of them.
    """
    paths = (item.path for item in store.list(""))
    foreign = [path for path in paths if not is_own(path) and not path.startswith(".") and "/." not in path]
    if not foreign:
        return
    named = name_some(foreign, _MAX_NAMED)
    raise RunMismatchError(
        f"{store.uri} is not a run directory (it has no {RUN_PATH}) but holds other files ({named}). Nothing was "
        "written or deleted. Choose a new or empty place for run.output."
    )
