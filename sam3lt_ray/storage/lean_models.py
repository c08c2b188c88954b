"""botocore's descriptions of services without the texts in them that are for people: a third of what an S3 client costs
in memory, which is paid by the driver and by every process that reads or commits.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from botocore.loaders import JSONFileLoader


class LeanFileLoader(JSONFileLoader):  # type: ignore[misc]  # botocore has no types
    """Reads the files of botocore's loader (its ``file_loader``)."""

    def load_file(self, file_path: str) -> Any:
        """What a JSON file holds, compressed or not, by its path without an extension; None: there is none."""
        plain, compressed = Path(f"{file_path}.json"), Path(f"{file_path}.json.gz")
        if plain.is_file():
            data = plain.read_bytes()
        elif compressed.is_file():
            data = gzip.decompress(compressed.read_bytes())
        else:
            return None
        # Plain dicts, which keep their order too: the OrderedDicts of botocore's own are larger.
        return json.loads(data, object_hook=_without_texts)


def _without_texts(found: dict[str, Any]) -> dict[str, Any]:
    # The member of a structure may have this name too: it is no text then.
    if isinstance(found.get("documentation"), str):
        found["documentation"] = ""
    return found
