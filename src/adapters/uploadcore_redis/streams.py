"""Events into a Redis Stream, from where consumer groups read them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from uploadcore.diagnosis import Finding, Needs, Verdict
from uploadcore.errors import DeliveryError, InvalidRequestError
from uploadcore.events import Event, cloud_event
from uploadcore.ports import AdapterContext
from uploadcore_redis.connecting import Client, connect, tls_context
from uploadcore_redis.errors import reason_of
from uploadcore_redis.url import parse_stream_url

__all__ = ["RedisStreamPublisher", "publisher_from_url"]

log = logging.getLogger(__name__)


def publisher_from_url(url: str, context: AdapterContext) -> RedisStreamPublisher:
    """The publisher a URL asks for. Opens nothing.

    Raises:
        InvalidRequestError: The URL can't be used. The message shows no password.
    """
    return RedisStreamPublisher(url, source=context.public_url)


class RedisStreamPublisher:
    """Adds events to a stream, each in one command within a deadline.

    An entry has the fields `id`, `type`, `sequence` and `event`, a CloudEvent in JSON. An event that is delivered twice is there twice, with one
    `id`. The stream is cut to about `maxlen` entries: what its readers have not read by then is gone, and so is everything when a server
    loses what it has; a reader that must miss nothing reads soon, or asks the service.

    Args:
        url: Such as `rediss://user:password@host:6379/0#stream=uploads`; Sentinel and Cluster as for `RedisCache`. Behind the `#`, all of them
            optional: `stream` (its key, by default `uploadcore:events`), `maxlen` (100,000; 0: never cut), `timeout` (seconds for a
            whole delivery, connecting included, 2), `max_connections` (8); and the files for TLS.
        source: What the events say they come from: the address of the service.

    Raises:
        InvalidRequestError: The URL can't be used. The message shows no password.

    >>> RedisStreamPublisher("redis://:secret@10.0.0.1/0#stream=uploads", source="https://uploads.example.com")
    RedisStreamPublisher('redis://10.0.0.1:6379', 'uploads')
    """

    def __init__(self, url: str, *, source: str) -> None:
        """Understand the URL; connect to nothing."""
        self._url = parse_stream_url(url)
        self._source = source
        options = self._url.options
        self._stream: str = options.get("stream", "uploadcore:events")
        self._maxlen: int = options.get("maxlen", 100_000)
        self._timeout: float = options.get("timeout", 2.0)
        self._max_connections: int = options.get("max_connections", 8)
        if not 0 < self._timeout <= 10:
            raise InvalidRequestError(f"a stream's timeout is more than 0 and up to 10 s, not {self._timeout:g} s")
        if self._max_connections < 1:
            raise InvalidRequestError(f"a stream needs one connection or more, not {self._max_connections}")
        self._tls = tls_context(self._url)
        self._slots = asyncio.Semaphore(self._max_connections)
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url)!r}, {self._stream!r})"

    async def open(self) -> None:
        """Get ready. Connects to nothing: a server that is away keeps no service from starting."""
        if self._client is None:
            self._slots = asyncio.Semaphore(self._max_connections)
            self._client = connect(
                self._url, self._tls, socket_timeout=self._timeout * 0.8, max_connections=self._max_connections
            )

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            try:
                await client.close()
            except Exception as exc:  # noqa: BLE001 - it is on its way out, and a server that hangs may make closing fail too
                log.debug("closing the connections to %s failed: %s", self._url, reason_of(exc))

    async def publish(self, event: Event) -> None:
        """Add one event.

        Raises:
            DeliveryError: The server did not say that it has it.
        """
        document = cloud_event(event, source=self._source)
        cut = ("MAXLEN", "~", self._maxlen) if self._maxlen else ()
        fields = {
            "id": event.id,
            "type": document["type"],
            "sequence": document.get("sequence", ""),
            "event": json.dumps(document, ensure_ascii=False, separators=(",", ":")),
        }
        await self._ask("XADD", self._stream, *cut, "*", *(text for field in fields.items() for text in field))

    async def diagnose(self, needs: Needs, *, apply: bool) -> AsyncIterator[Finding]:
        """Whether the server answers, and what stands under the stream's key. Adds nothing."""
        del needs, apply
        check = "reachable"
        try:
            kind = await self._ask("TYPE", self._stream)
        except DeliveryError as exc:
            yield Finding(
                check,
                Verdict.FAILED,
                exc.message,
                "see that it runs, and that host, port and password are right; events wait meanwhile",
            )
            return
        kind = kind.decode() if isinstance(kind, bytes) else kind
        if kind in {"stream", "none"}:
            yield Finding(check, Verdict.OK, f"{self._url} answers")
        else:
            yield Finding(
                check,
                Verdict.FAILED,
                f"{self._url} has something else than a stream under the key {self._stream!r}: a {kind}",
                "choose another key with stream=…, or remove what is there",
            )

    async def _ask(self, *command: Any) -> Any:
        client = self._client
        if client is None:
            raise DeliveryError("the publisher is not open")
        async with self._slots:  # the time a delivery has does not begin while others have theirs
            try:
                async with asyncio.timeout(self._timeout):
                    return await client.execute(*command)
            except Exception as exc:
                # Whatever it is, redis-py's own slips on a connection that breaks included.
                raise DeliveryError(f"{self._url} does not take it: {reason_of(exc)}") from exc
