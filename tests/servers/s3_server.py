"""A server and a bucket as tests see them. They speak boto3, so they share nothing with the code under test."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3lt_ray.config.schema import StorageSettings

ACCESS_KEY_ID = "TESTKEYIDTESTKEYID01"
SECRET_ACCESS_KEY = "test-secret-access-key-0123456789-abcdef"
REGION = "us-east-1"


def credential_environment() -> dict[str, str]:
    """Environment variables that let any S3 client in, and keep it from looking elsewhere for credentials."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


# What a developer's shell may hold and no test may see.
UNWANTED_VARIABLES = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class S3Server:
    """An S3 endpoint.

    Attributes:
        endpoint_url: "http://127.0.0.1:<port>".
    """

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self._client: Any = None

    @property
    def client(self) -> Any:
        """A boto3 client that works whatever the environment says; thread-safe."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            session = boto3.session.Session(
                aws_access_key_id=ACCESS_KEY_ID, aws_secret_access_key=SECRET_ACCESS_KEY, region_name=REGION
            )
            config = Config(s3={"addressing_style": "path"}, proxies={}, retries={"total_max_attempts": 1})
            self._client = session.client("s3", endpoint_url=self.endpoint_url, config=config)
        return self._client

    def new_bucket(self, label: str = "test") -> S3Bucket:
        """Create a bucket with a name nobody else uses."""
        bucket = S3Bucket(self, f"{label}-{uuid.uuid4().hex[:12]}")
        self.client.create_bucket(Bucket=bucket.name)
        return bucket

    def close(self) -> None:
        """Close our own connections."""
        if self._client is not None:
            self._client.close()
            self._client = None


@dataclass(frozen=True)
class S3Bucket:
    """A bucket on a server: the helper's way in, beside the code under test."""

    server: S3Server
    name: str

    def uri(self, path: str = "") -> str:
        """ "s3://bucket/path"."""
        return f"s3://{self.name}/{path}"

    def storage(self, **changes: Any) -> StorageSettings:
        """Settings that reach this server; credentials come from the environment, as in production."""
        from sam3lt_ray.config.schema import StorageSettings

        return StorageSettings(**({"endpoint_url": self.server.endpoint_url} | changes))

    def put(self, key: str, body: bytes) -> None:
        """Store an object."""
        self.server.client.put_object(Bucket=self.name, Key=key, Body=body)

    def put_all(self, objects: Mapping[str, bytes]) -> None:
        """Store several objects."""
        for key, body in objects.items():
            self.put(key, body)

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        return bytes(self.server.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.server.client.delete_object(Bucket=self.name, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        """All keys below a prefix, sorted."""
        pages = self.server.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))
