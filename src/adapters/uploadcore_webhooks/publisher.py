"""`WebhookPublisher`: each event is one signed POST to one configured address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpcore
from standardwebhooks import Webhook

from uploadcore.diagnosis import Finding, Needs, Verdict
from uploadcore.errors import DeliveryError, InvalidRequestError, UndeliverableError
from uploadcore.events import Event, cloud_event
from uploadcore.ports import AdapterContext, Clock
from uploadcore.system import SystemClock
from uploadcore_webhooks.network import CheckedNetwork, Resolver, SystemResolver
from uploadcore_webhooks.url import WebhookUrl, parse_url

__all__ = ["WebhookPublisher", "from_url"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
"""Twice what a relay makes deliveries to one destination at a time: who waits for a connection would use up its timeout, and count as failed."""
CONNECT_TIMEOUT = 3.0
"""Seconds for finding a host's addresses, and again for each that is tried."""
KEEP_ALIVE = 15.0
"""Seconds an idle connection is kept: less than most servers do, so that none is closed just as it is used."""
ANSWER_READ = 64 * 1024
"""Bytes of an answer that are read, so that its connection can be used again. Nothing is done with them."""
ANSWER_TIMEOUT = 1.0
"""Seconds they may take: the status has been told by then."""


def from_url(url: str, context: AdapterContext) -> WebhookPublisher:
    """The publisher a URL asks for. Opens nothing.

    Raises:
        InvalidRequestError: The URL can't be used. The message shows no secret.
    """
    return WebhookPublisher(url, source=context.public_url)


class WebhookPublisher:
    """Sends events as CloudEvents, signed by the Standard Webhooks scheme, to one address.

    Delivered is what is answered with 2xx. 410 says that the address takes no events any more: those go to the dead letters at once. Any
    other answer, redirects included, and none in time: not delivered, try again; no sooner than its `Retry-After` says.

    Args:
        url: Where to, and behind a `#`, which is not sent: `secret=whsec_…`, again for each further secret: all sign, so that a receiver may
            change from one to the other; and, all of them optional, `timeout` (seconds for a whole delivery, by default 8, at most 9),
            `allow` (addresses and networks that are not on the open internet and may be sent to, with commas between them), `allow_http=true` (elsewhere than to this machine), `ca_file` (authorities to trust, as a PEM file, instead of the system's).
        source: What the events say they come from: the address of the service.
        clock: For the time that is signed; by default the one of the `UploadCore` that this is a publisher of, which goes by the database's.
        resolver: Where a host's addresses come from; by default the system says.

    Raises:
        InvalidRequestError: The URL can't be used. The message shows no secret.

    >>> WebhookPublisher(
    ...     "https://crm.example.com/hooks?token=1#secret=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", source="https://uploads.example.com"
    ... )
    WebhookPublisher('https://crm.example.com')
    """

    def __init__(self, url: str, *, source: str, clock: Clock | None = None, resolver: Resolver | None = None) -> None:
        """Understand the URL; connect to nothing."""
        self._url = parse_url(url)
        self._source = source
        self._given_clock = clock
        self._clock = clock or SystemClock()
        self._signers = [Webhook(secret) for secret in self._url.secrets]
        self._timeout: float = self._url.options.get("timeout", 8.0)
        self._tls = _tls_context(self._url)
        self._resolver = resolver
        self._own_resolver: SystemResolver | None = None
        self._network: CheckedNetwork | None = None
        self._pool: httpcore.AsyncConnectionPool | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url)!r})"

    def use_clock(self, clock: Clock) -> None:
        """Sign by this one, unless another was given: receivers refuse what is five minutes off, and this machine's may be."""
        self._clock = self._given_clock or clock

    async def open(self) -> None:
        """Get ready. Connects to nothing: an endpoint that is away keeps no service from starting."""
        if self._pool is not None:
            return
        resolver = self._resolver
        if resolver is None:
            resolver = self._own_resolver = SystemResolver()
        self._network = CheckedNetwork(resolver, self._url.options.get("allow", ()))
        # No proxy: httpcore knows the environment's as little as redirects.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE,
            network_backend=self._network,
        )

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        pool, self._pool = self._pool, None
        resolver, self._own_resolver = self._own_resolver, None
        if resolver is not None:
            resolver.close()
        if pool is not None:
            await pool.aclose()

    async def publish(self, event: Event) -> None:
        """Deliver one event. It has the same `webhook-id` whenever it is delivered.

        Raises:
            UndeliverableError: The endpoint is gone for good.
            DeliveryError: It was not delivered, or nobody knows; say what was answered, and no secret.
        """
        pool = self._pool
        if pool is None:
            raise DeliveryError("the publisher is not open")
        body = json.dumps(cloud_event(event, source=self._source), ensure_ascii=False, separators=(",", ":"))
        answer = await self._post(pool, self._headers(event.id, body), body.encode())
        if answer.status == 410:
            raise UndeliverableError(f"{self._url} answers 410: it takes no events any more")
        if not 200 <= answer.status < 300:
            raise DeliveryError(f"{self._url} answers {answer.status}", retry_after=self._wait_of(answer))

    async def _post(
        self, pool: httpcore.AsyncConnectionPool, headers: list[tuple[str, str]], body: bytes
    ) -> httpcore.Response:
        answer: httpcore.Response | None = None
        try:
            async with (
                asyncio.timeout(self._timeout),
                pool.stream(
                    "POST",
                    self._address,
                    headers=headers,
                    content=body,
                    extensions={"timeout": {"connect": CONNECT_TIMEOUT, "read": self._timeout, "write": self._timeout}},
                ) as answer,
            ):
                await _read(answer)
        except TimeoutError as exc:
            if answer is None:  # else what counts has been told in time
                raise DeliveryError(f"{self._url} does not answer within {self._timeout:g} s") from exc
        except _FAILURES as exc:
            raise DeliveryError(f"{self._url} can't be reached: {_reason(exc)}") from exc
        return answer

    def _wait_of(self, answer: httpcore.Response) -> float:
        """The seconds its `Retry-After` asks for, as a number or a date (RFC 9110, section 10.2.3); 0 where it has none, or one that can't be read."""
        told = {name.lower(): value for name, value in answer.headers}.get(b"retry-after", b"").decode("latin-1")
        try:
            return (
                float(told) if told.isdecimal() else (parsedate_to_datetime(told) - self._clock.now()).total_seconds()
            )
        except (TypeError, ValueError, OverflowError):  # no date, or one without a zone
            return 0.0

    def _headers(self, event_id: str, body: str) -> list[tuple[str, str]]:
        now = self._clock.now()
        return [
            ("Host", self._url.authority),
            ("User-Agent", "uploadcore"),
            ("Content-Type", "application/cloudevents+json; charset=utf-8"),
            ("Content-Length", str(len(body.encode()))),
            ("webhook-id", event_id),
            ("webhook-timestamp", str(int(now.timestamp()))),
            ("webhook-signature", self._signatures(event_id, now, body)),
        ]

    def _signatures(self, event_id: str, now: datetime, body: str) -> str:
        return " ".join(signer.sign(event_id, now, body) for signer in self._signers)

    @property
    def _address(self) -> httpcore.URL:
        """From its pieces: nothing is parsed twice, and so differently."""
        return httpcore.URL(scheme=self._url.scheme, host=self._url.host, port=self._url.port, target=self._url.target)

    async def diagnose(self, needs: Needs, *, apply: bool) -> AsyncIterator[Finding]:
        """Whether the endpoint can be connected to. Sends nothing."""
        del needs, apply
        assert self._network is not None, "open it first"
        check = "reachable"
        try:
            async with asyncio.timeout(self._timeout):
                stream = await self._network.connect_tcp(self._url.host, self._url.port, CONNECT_TIMEOUT)
                try:
                    if self._tls is not None:
                        stream = await stream.start_tls(self._tls, self._url.host, CONNECT_TIMEOUT)
                finally:
                    await stream.aclose()
        except (TimeoutError, *_FAILURES) as exc:
            yield Finding(
                check,
                Verdict.FAILED,
                f"{self._url} can't be reached: {_reason(exc)}",
                "see that the address is right and that it listens; events wait meanwhile",
            )
        else:
            yield Finding(check, Verdict.OK, f"{self._url} takes connections")


_FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


async def _read(answer: httpcore.Response) -> None:
    """Read what is left of an answer, if that is little and comes soon. What counts has been told."""
    read = 0
    with contextlib.suppress(TimeoutError, *_FAILURES):
        async with asyncio.timeout(ANSWER_TIMEOUT):
            async for chunk in answer.aiter_stream():
                read += len(chunk)
                if read > ANSWER_READ:
                    return


def _reason(exc: BaseException) -> str:
    """Why, in a few words. httpcore's own texts, and the system's: none quotes what was sent or answered but a line that is no HTTP."""
    if isinstance(exc, httpcore.ProtocolError):
        return "it closes the connection, or what it answers is no HTTP"
    return str(exc) or type(exc).__name__


def _tls_context(url: WebhookUrl) -> ssl.SSLContext | None:
    if url.scheme != "https":
        return None
    try:
        return ssl.create_default_context(cafile=url.options.get("ca_file"))
    except (OSError, ValueError) as exc:
        raise InvalidRequestError(f"{url}: ca_file can't be used: {type(exc).__name__}") from exc
