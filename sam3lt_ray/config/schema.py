"""Every setting a run has, with its default, its limits and whether changing it changes labels.

The models are strict and closed: a value of another type or an unknown key is a mistake, never a guess. Each leaf says
with ``changes_labels`` whether a run directory made with another value may be continued.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from sam3lt_ray.redaction import carries_credentials

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

OnExists = Literal["resume", "overwrite", "fail"]
OnChanged = Literal["refuse", "relabel"]
InputFormat = Literal["webdataset", "parquet", "folder", "manifest"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]


def _setting(description: str, *, changes_labels: bool) -> Any:
    """Describe a leaf: the text shown in editors, and whether it takes part in the fingerprint."""
    return Field(description=description, json_schema_extra={"changes_labels": changes_labels})


def _refuse_credentials(uri: str) -> str:
    """Credentials in a uri would end in logs and in the run directory; the message must not repeat them."""
    if carries_credentials(uri):
        raise ValueError(
            "a uri must not carry credentials (user:password@, or the signature of a presigned url); they come from "
            "the environment, a profile or the instance's role."
        )
    return uri


def _check_endpoint(url: str | None) -> str | None:
    if url is None:
        return None
    _refuse_credentials(url)
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"expected a url such as https://s3.example.org, got {url!r}.")
    return url


Uri = Annotated[str, Field(min_length=1), AfterValidator(_refuse_credentials)]

# The entries are checked by the vocabulary itself, which can name the entry; editors get their form from here.
_LABELS_JSON_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {
                "type": "object",
                "additionalProperties": False,
                "required": ["name"],
                "properties": {
                    "id": {"type": "integer", "minimum": 0},
                    "name": {"type": "string", "minLength": 1},
                    "prompts": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                    "threshold": {"type": "number", "minimum": 0, "maximum": 1},
                    "supercategory": {"type": "string"},
                },
            },
        ]
    },
}
_VOCABULARY_JSON_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        _LABELS_JSON_SCHEMA,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["labels"],
            "properties": {"labels": _LABELS_JSON_SCHEMA},
        },
    ]
}


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSettings(Section):
    """Where the run lives."""

    output: Annotated[Uri, _setting("Run directory: a local path or s3://bucket/prefix.", changes_labels=False)]
    on_exists: Annotated[
        OnExists,
        _setting("When the run directory exists: continue it, start it anew, or stop.", changes_labels=False),
    ] = "resume"
    changed: Annotated[
        OnChanged,
        _setting(
            "When a shard's content is not what was labeled: stop, or replace the labels of that shard.",
            changes_labels=False,
        ),
    ] = "refuse"


class InputSettings(Section):
    """Which images are read, and how they are cut into units."""

    format: Annotated[
        InputFormat,
        _setting(
            "webdataset: .tar shards; parquet: files with an image column; folder: loose image files; "
            "manifest: a table with the uri of each image.",
            changes_labels=True,
        ),
    ]
    # The uri is not a setting that changes labels. A run holds one input all the same: prepare.py refuses another uri,
    # and the snapshot in the run directory decides shard by shard whether the content is still the same.
    uri: Annotated[
        Uri,
        _setting("Local path or s3:// uri: a folder or prefix, or one file.", changes_labels=False),
    ]
    image_column: Annotated[
        str | None,
        _setting(
            "parquet: column with the image bytes; webdataset: extension of the image member; null: found by itself.",
            changes_labels=True,
        ),
    ] = None
    key_column: Annotated[
        str | None,
        _setting(
            "parquet, manifest: column with a name for each image; null: made from the position.", changes_labels=True
        ),
    ] = None
    uri_column: Annotated[
        str, Field(min_length=1), _setting("manifest: column with the uri of each image.", changes_labels=True)
    ] = "uri"
    images_per_group: Annotated[
        PositiveInt, _setting("folder, manifest: images that form one shard.", changes_labels=True)
    ] = 1000
    images_per_unit: Annotated[
        PositiveInt,
        _setting("Images that are read, labeled and committed together, at most.", changes_labels=True),
    ] = 256
    max_unit_mb: Annotated[PositiveInt, _setting("Compressed size of a unit in MB, at most.", changes_labels=True)] = (
        128
    )
    max_pixels: Annotated[
        PositiveInt,
        _setting("Images with more pixels become error rows instead of filling the memory.", changes_labels=True),
    ] = 200_000_000
    max_image_mb: Annotated[
        PositiveInt, _setting("Image files larger than this many MB become error rows.", changes_labels=True)
    ] = 256

    @property
    def has_loose_files(self) -> bool:
        """Images are files of their own: shards are groups of them, and their number is known from the listing."""
        return self.format in ("folder", "manifest")


class ModelSettings(Section):
    """The checkpoint. Its identity in a run is the hashes of its files, so neither its name nor its revision counts."""

    checkpoint: Annotated[
        str,
        Field(min_length=1),
        _setting('A folder, a Hugging Face id, or "demo" (the small checkpoint in the package).', changes_labels=False),
    ] = "demo"
    revision: Annotated[
        str | None, _setting("Commit, tag or branch of a Hugging Face checkpoint.", changes_labels=False)
    ] = None


class LabelingSettings(Section):
    """What is kept of the model's answers."""

    score_floor: Annotated[Fraction, _setting("Instances with a lower score are not stored.", changes_labels=True)] = (
        0.2
    )
    mask_threshold: Annotated[
        float,
        Field(gt=0, lt=1),
        _setting("Mask probability from which a pixel belongs to an instance.", changes_labels=True),
    ] = 0.5
    score_threshold: Annotated[
        Fraction,
        _setting("Instances with a lower score are not exported; a label's own threshold wins.", changes_labels=False),
    ] = 0.5
    merge_iou: Annotated[
        float,
        Field(gt=0, le=1),
        _setting("Instances found by two prompts of one label are one from this mask IoU on.", changes_labels=True),
    ] = 0.7


class ComputeSettings(Section):
    """What the run may use. Only the precision can change a label."""

    actors: Annotated[
        PositiveInt | Auto,
        _setting(
            "Processes that hold the model, at least; auto: one per GPU; without GPUs one per core for a checkpoint of "
            "up to 100 MB, else one per four cores.",
            changes_labels=False,
        ),
    ] = "auto"
    max_actors: Annotated[
        PositiveInt | None,
        _setting(
            "How far the pool grows when nodes join a cluster while a run goes on; null: not beyond a number in "
            "actors, and with actors: auto as far as the cluster does.",
            changes_labels=False,
        ),
    ] = None
    device: Annotated[
        Device, _setting("auto: CUDA where the cluster has GPUs, else the CPU.", changes_labels=False)
    ] = "auto"
    precision: Annotated[
        Precision,
        _setting("Of the network; auto: bf16 on CUDA, fp32 on the CPU.", changes_labels=True),
    ] = "auto"
    images_per_batch: Annotated[
        PositiveInt | Auto, _setting("Images that go through the vision encoder together.", changes_labels=False)
    ] = "auto"
    prompts_per_batch: Annotated[
        PositiveInt | Auto,
        _setting("Pairs of a prompt with an image that are grounded together.", changes_labels=False),
    ] = "auto"
    decode_threads: Annotated[
        PositiveInt | Auto, _setting("Threads per actor that decode images.", changes_labels=False)
    ] = "auto"
    cpus_per_actor: Annotated[
        PositiveFloat | Auto, _setting("CPUs that Ray reserves for each actor.", changes_labels=False)
    ] = "auto"
    gpus_per_actor: Annotated[
        PositiveFloat, _setting("GPUs that Ray reserves for each actor on CUDA.", changes_labels=False)
    ] = 1.0
    max_passes: Annotated[
        PositiveInt, _setting("Sweeps over what is still missing before the run gives up.", changes_labels=False)
    ] = 3
    image_timeout_s: Annotated[
        PositiveFloat,
        _setting("A worker that finishes no image for this long is ended and restarted.", changes_labels=False),
    ] = 300.0
    ray_address: Annotated[
        str | None,
        AfterValidator(lambda address: None if address is None else _refuse_credentials(address)),
        _setting("Ray cluster to join; null: the one this process is on, or a local one.", changes_labels=False),
    ] = None

    @model_validator(mode="after")
    def _check_actors(self) -> ComputeSettings:
        if self.max_actors is not None and self.actors != "auto" and self.actors > self.max_actors:
            raise ValueError(
                f"compute.actors is {self.actors}, more than compute.max_actors allows ({self.max_actors}); a run "
                "begins with the first and grows to the second."
            )
        return self


class StorageSettings(Section):
    """How S3 is reached. Credentials have no place here: they come from the environment, profile or instance role."""

    endpoint_url: Annotated[
        str | None, AfterValidator(_check_endpoint), _setting("S3-compatible server; null: AWS.", changes_labels=False)
    ] = None
    region: Annotated[str | None, _setting("AWS region.", changes_labels=False)] = None
    profile: Annotated[str | None, _setting("Profile of the AWS credentials file.", changes_labels=False)] = None
    anonymous: Annotated[bool, _setting("Read a public bucket without credentials.", changes_labels=False)] = False
    requester_pays: Annotated[bool, _setting("Accept the costs of a requester-pays bucket.", changes_labels=False)] = (
        False
    )
    timeout_s: Annotated[
        PositiveFloat,
        _setting("A request to S3 that is silent for this long is made again.", changes_labels=False),
    ] = 60.0


class ErrorSettings(Section):
    """How many unusable images a run may have."""

    max_error_fraction: Annotated[
        Fraction | None,
        _setting(
            "Share of error rows above which a run exits with code 3, early when it is clearly going wrong; null: any.",
            changes_labels=False,
        ),
    ] = None


class Config(Section):
    """All settings of a run."""

    run: RunSettings
    input: InputSettings
    model: ModelSettings = ModelSettings()
    # Compared label by label with the run's, not as the text that names it.
    vocabulary: Annotated[
        str | list[Any] | dict[str, Any],
        WithJsonSchema(_VOCABULARY_JSON_SCHEMA),
        _setting('A YAML file, "demo", or the labels themselves, as a list or as in a file.', changes_labels=False),
    ]
    labeling: LabelingSettings = LabelingSettings()
    compute: ComputeSettings = ComputeSettings()
    storage: StorageSettings = StorageSettings()
    errors: ErrorSettings = ErrorSettings()
