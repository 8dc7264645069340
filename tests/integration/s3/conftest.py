"""The two stores on a bucket of a real server, for each test a new one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace

import botocore.loaders
import httpx
import pytest
from botocore.loaders import create_loader

from tests.servers.s3 import S3Server
from tests.servers.swift import SwiftServer
from uploadcore.ports import StoreCapabilities
from uploadcore.system import SystemClock
from uploadcore.testing import HttpAnswer
from uploadcore_s3 import PRESETS, Credentials, QuerySigner, StoreOptions
from uploadcore_s3.probe import Probe, SignedHttp
from uploadcore_s3.transport import Transport


class RealHttp:
    """A client with a signed URL."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        answer = await self._client.request(method, url, headers=dict(headers), content=body)
        return HttpAnswer(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.content)


@pytest.fixture(scope="session", autouse=True)
def one_loader() -> Iterator[None]:
    """botocore parses its models for each session, which takes longer than most of these tests: here once."""
    loader = create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.loaders, "create_loader", lambda _search_path=None: loader)
        yield


@pytest.fixture
async def http() -> AsyncIterator[RealHttp]:
    async with httpx.AsyncClient(timeout=30, trust_env=False, verify=False) as client:
        yield RealHttp(client)


@pytest.fixture(scope="session")
def s3_capabilities(s3_server: S3Server) -> StoreCapabilities:
    """What the server under test can do: Swift as its preset says (and the doctor's tests find), any other as found by trying."""
    if isinstance(s3_server, SwiftServer):
        return PRESETS["swift"]
    transport = Transport(connect_timeout=5, size=8, ca_certs=None)
    credentials = Credentials(s3_server.access_key, s3_server.secret_key)
    bucket = s3_server.new_bucket()
    signer = QuerySigner(s3_server.endpoint, bucket=bucket, region=s3_server.region)
    probe = Probe(SignedHttp(transport, signer, lambda: credentials, bucket=bucket, clock=SystemClock()), "probe")
    found = probe.capabilities()
    # An upload has one checksum of the whole, and what it declares decides which its parts take.
    whole = max(found.object_checksums, default=None)
    parts = probe.part_checksums(declared=whole)
    transport.close()
    return replace(found, object_checksums=frozenset({whole} if whole else ()), part_checksums=parts)


@pytest.fixture
def s3_options(s3_server: S3Server, s3_capabilities: StoreCapabilities) -> StoreOptions:
    """How either store reaches the server under test."""
    return StoreOptions(
        endpoint=s3_server.endpoint,
        region=s3_server.region,
        credentials=Credentials(s3_server.access_key, s3_server.secret_key),
        capabilities=s3_capabilities,
        part_size_min=1,
    )
