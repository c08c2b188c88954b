"""Settings of a run: schema, reading, fingerprint."""

from sam3lt_ray.config.fingerprint import label_settings
from sam3lt_ray.config.load import LoadedConfig, load_config, load_storage_settings
from sam3lt_ray.config.schema import (
    ComputeSettings,
    Config,
    ErrorSettings,
    InputSettings,
    LabelingSettings,
    ModelSettings,
    RunSettings,
    StorageSettings,
)

__all__ = [
    "ComputeSettings",
    "Config",
    "ErrorSettings",
    "InputSettings",
    "LabelingSettings",
    "LoadedConfig",
    "ModelSettings",
    "RunSettings",
    "StorageSettings",
    "label_settings",
    "load_config",
    "load_storage_settings",
]
