"""Which settings change labels: what a config adds to the fingerprint of a run.

A run directory is continued only with the settings it was made with. Everything else (how many actors, where the run
lives, how storage is reached) may differ from one start to the next.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from sam3lt_ray.config.schema import Config


def declared_settings(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, bool | None]]:
    """Every leaf of the config by its dotted name, with what it declares; None where it declares nothing.

    Args:
        model: Where to start.
        prefix: Dotted name of ``model``, with its last dot.
    """
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from declared_settings(field.annotation, f"{prefix}{name}.")
            continue
        extra = field.json_schema_extra
        declared = extra.get("changes_labels") if isinstance(extra, dict) else None
        yield f"{prefix}{name}", declared if isinstance(declared, bool) else None


def label_settings(config: Config) -> dict[str, object]:
    """The settings that change labels.

    Not among them, because they are compared in their own ways: the checkpoint (hashes of its files), the input's uri
    (shards against the snapshot) and the vocabulary (label by label).

    Args:
        config: A complete config.

    Returns:
        Dotted name -> value as it stands in the config (``auto`` stays ``auto``), in the order of the schema.
    """
    values = config.model_dump(mode="json")
    settings: dict[str, object] = {}
    for dotted, changes_labels in declared_settings():
        if changes_labels:
            value = values
            for part in dotted.split("."):
                value = value[part]
            settings[dotted] = value
    return settings
