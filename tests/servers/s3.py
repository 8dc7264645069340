"""A server that speaks S3, as a test sees it; and the one that UPLOADCORE_TEST_S3_URL names."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.servers.process import ServerError

URL = "UPLOADCORE_TEST_S3_URL"
ACCESS_KEY = "UPLOADCORE_TEST_S3_ACCESS_KEY"
SECRET_KEY = "UPLOADCORE_TEST_S3_SECRET_KEY"
REGION = "UPLOADCORE_TEST_S3_REGION"
DEFAULT_REGION = "us-east-1"
TIMEOUT = 30.0
"""Seconds for a call of ours."""
PREFIX = "uploadcore-test-"


@dataclass(frozen=True, slots=True)
class Keys:
    """Who signs."""

    access_key: str
    secret_key: str = field(repr=False)


class S3Server:
    """A server that speaks S3."""

    def __init__(
        self,
        endpoint: str,
        keys: Keys,
        *,
        region: str,
        writer: Keys | None = None,
        reader: Keys | None = None,
        stranger: Keys | None = None,
    ) -> None:
        """`keys` may make buckets. `writer` may read and write objects, `reader` only read, `stranger` nothing; `None`: not there."""
        self.endpoint = endpoint
        self.control = keys
        self.region = region
        self.writer, self.reader, self.stranger = writer, reader, stranger
        self.buckets: list[str] = []

    @property
    def access_key(self) -> str:
        """Of who may do everything."""
        return self.control.access_key

    @property
    def secret_key(self) -> str:
        """Of who may do everything."""
        return self.control.secret_key

    @property
    def name(self) -> str:
        """What it says it is."""
        with contextlib.closing(self.client()) as client:
            headers = client.list_buckets()["ResponseMetadata"]["HTTPHeaders"]
        return f"{headers.get('server', 'S3')} at {self.endpoint}"

    def start(self) -> None:
        """It runs already."""

    def new_bucket(self) -> str:
        """Make an empty bucket; its name."""
        bucket = f"{PREFIX}{uuid4().hex[:12]}"
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=bucket)
        self.buckets.append(bucket)
        return bucket

    def stop(self) -> None:
        """Remove the buckets that were made here, with what is in them."""
        with contextlib.closing(self.client()) as client:
            for bucket in self.buckets:
                _empty(client, bucket)
                client.delete_bucket(Bucket=bucket)
        self.buckets.clear()

    def client(self, keys: Keys | None = None) -> Any:
        """A client of boto3's. Close it."""
        # Imported where needed: a run that needs no store need not wait for it.
        import boto3
        from botocore.config import Config

        keys = self.control if keys is None else keys
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            region_name=self.region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=TIMEOUT,
                read_timeout=TIMEOUT,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def from_environment(environment: Mapping[str, str]) -> S3Server:
    """The server that UPLOADCORE_TEST_S3_URL names, with its keys; the region is `us-east-1` where none is named.

    Raises:
        ServerError: A key is missing.
    """
    missing = [name for name in (ACCESS_KEY, SECRET_KEY) if not environment.get(name)]
    if missing:
        raise ServerError(f"{URL} is set, {' and '.join(missing)} must be too")
    keys = Keys(environment[ACCESS_KEY], environment[SECRET_KEY])
    return S3Server(environment[URL], keys, region=environment.get(REGION, DEFAULT_REGION))


def _empty(client: Any, bucket: str) -> None:
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            client.delete_object(Bucket=bucket, Key=found["Key"])
