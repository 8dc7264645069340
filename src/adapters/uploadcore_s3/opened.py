"""What a store has while it is open: its client, threads, signer and credentials; and how calls are made with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import stamina

from uploadcore.errors import StoreUnavailableError
from uploadcore.plan import StoredPart
from uploadcore_s3.client import Identity, S3Client
from uploadcore_s3.configuration import S3Configuration
from uploadcore_s3.credentials import SigningCredentials
from uploadcore_s3.errors import S3CallError, TransportError, is_transient, map_errors
from uploadcore_s3.probe import SignedHttp
from uploadcore_s3.signing import Credentials, QuerySigner
from uploadcore_s3.store_clock import FEWEST, StoreClock
from uploadcore_s3.threads import BoundedThreads

__all__ = ["OpenedStore"]

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds that starting waits for the store to say what time it is."""
_COMPLETIONS = 16
"""Completions at a time, on threads of their own: each may take minutes, and nothing else waits for them."""


class OpenedStore:
    """What a store has while it is open."""

    def __init__(self, configuration: S3Configuration, client: S3Client, clock: StoreClock) -> None:
        """Take over `client`."""
        self.client = client
        self._timeouts = configuration.timeouts
        threads = configuration.threads
        self._calls = BoundedThreads("uploadcore-s3", threads=threads, waiting=4 * threads)
        self._completions = BoundedThreads("uploadcore-s3-complete", threads=_COMPLETIONS, waiting=4 * _COMPLETIONS)
        # Not among the calls: a store that hangs must not keep URLs from being signed.
        self._renewals = BoundedThreads("uploadcore-s3-credentials", threads=len(Identity), waiting=len(Identity))
        self._configuration = configuration
        self._clock = clock
        self.signer = self._signer(configuration.public_endpoint or client.endpoint)
        self.signing = {identity: SigningCredentials(self._asking(identity), clock) for identity in Identity}

    def _signer(self, endpoint: str) -> QuerySigner:
        return QuerySigner(
            endpoint,
            bucket=self._configuration.bucket,
            region=self.client.region,
            addressing="path" if self._configuration.is_path_style else "virtual",
        )

    def by_hand(self, identity: Identity, endpoint: str) -> SignedHttp:
        """Requests without an SDK, through URLs signed for who `identity` says."""
        return SignedHttp(
            self.client.transport,
            self._signer(endpoint),
            lambda: self.client.credentials(identity),
            bucket=self._configuration.bucket,
            clock=self._clock,
        )

    async def ask_for_the_time(self) -> None:
        """Have the store say something, whatever it is, until it is believed: the transport looks at its date."""
        endpoint, bucket = urlsplit(self.client.endpoint), self._configuration.bucket
        url = f"{endpoint.scheme}://{bucket}.{endpoint.netloc}/"
        if self._configuration.is_path_style:
            url = f"{endpoint.scheme}://{endpoint.netloc}{endpoint.path.rstrip('/')}/{bucket}"
        until = time.monotonic() + _PATIENCE
        for _ in range(FEWEST):
            left = until - time.monotonic()
            if left > 0 and self._clock.offset is None:
                with suppress(S3CallError, TransportError):
                    await self._calls.run(self.client.transport.send, "HEAD", url, {}, None, within=left)

    async def once(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """One attempt."""
        return await self._calls.run(call, *args, within=self._timeouts.call, **options)

    async def repeatedly(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Attempts until one goes well, or fails for good, or time is over."""
        async for attempt in stamina.retry_context(
            on=is_transient, attempts=6, timeout=self._timeouts.retries, wait_initial=0.1, wait_max=5, wait_jitter=0.5
        ):
            with attempt:
                return await self.once(call, *args, **options)
        raise AssertionError("the last attempt returns or raises")

    async def completed(
        self, key: str, upload_id: str, parts: Sequence[StoredPart], headers: Mapping[str, str]
    ) -> bytes:
        """One completion, on its own threads."""
        return await self._completions.run(
            self.client.complete_multipart, key, upload_id, parts, headers, within=self._timeouts.completion
        )

    def _asking(self, identity: Identity) -> Callable[[], Any]:
        async def ask() -> Credentials:
            with map_errors("the credentials can't be renewed"):
                try:
                    return await self._renewals.run(self.client.credentials, identity, within=self._timeouts.call)
                except LookupError as exc:
                    raise StoreUnavailableError(f"the credentials can't be renewed: {exc}") from exc

        return ask

    async def close(self) -> None:
        """Let go of it."""
        self.client.close()
        await asyncio.gather(self._calls.close(), self._completions.close(), self._renewals.close())
        await asyncio.gather(*(signing.close() for signing in self.signing.values()))
