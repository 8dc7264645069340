"""The service as `signing_app` serves it, but that boto3 presigns the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from dependency_injector import providers

from uploadcore.file import Checksum
from uploadcore.plan import Part
from uploadcore.ports import ObjectStore, SignedRequest
from uploadcore.upload import Address
from uploadcore_app import Container, load_settings
from uploadcore_http import create_app


class PresignedByBoto3:
    """A store whose parts are presigned with boto3's client; everything else is the store's own."""

    def __init__(self, store: ObjectStore, client: Any) -> None:
        self._store = store
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def presign_parts(
        self, address: Address, parts: Sequence[Part], *, checksums: Mapping[int, Checksum], expires_in: timedelta
    ) -> list[SignedRequest]:
        expires_at = datetime.now(UTC) + expires_in
        what = {"Bucket": address.bucket, "Key": address.key, "UploadId": address.storage_upload_id}
        seconds = int(expires_in.total_seconds())
        return [
            SignedRequest(
                "PUT",
                self._client.generate_presigned_url(
                    "upload_part", {**what, "PartNumber": part.part_number, "ContentLength": part.length}, seconds
                ),
                {},
                expires_at,
            )
            for part in parts
        ]


settings = load_settings()
container = Container()
container.settings.override(settings)
container.store.override(
    providers.Object(
        PresignedByBoto3(
            container.store(),
            boto3.client(
                "s3",
                endpoint_url=parse_qs(urlsplit(settings.storage_url).query)["endpoint"][0],
                config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
            ),
        )
    )
)
app = create_app(settings, container)
