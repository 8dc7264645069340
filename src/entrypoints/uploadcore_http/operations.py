"""Health, metrics and the schema: what operators and tools ask."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Mapping
from datetime import timedelta
from typing import Any

import msgspec
from litestar import get
from litestar.di import NamedDependency

from uploadcore import UploadCore
from uploadcore.clocks import clock_offset
from uploadcore.errors import ForbiddenError, UploadCoreError
from uploadcore.upload import Address
from uploadcore_http.auth import bearer_token, is_direct_loopback
from uploadcore_http.lifecycle import Lifecycle
from uploadcore_http.links import Links
from uploadcore_http.metrics import Metrics
from uploadcore_http.openapi import ApiDocument
from uploadcore_http.operation import Answer, Operation, operation_opt
from uploadcore_http.refreshing import Refreshed
from uploadcore_http.requests import ApiRequest
from uploadcore_http.responses import BytesResponse, json_response

__all__ = ["OPERATION_ROUTES", "Health", "MetricsAccess"]

PROBE_TIMEOUT = 2.0
"""Seconds a port may take to answer a probe: less than load balancers wait for the whole of it."""
PROBE_INTERVAL = 2.0
"""Seconds a finding is kept: nobody needs a token to ask, and asking must not become work for the database."""
WRONG_CLOCK = 3
"""Seconds by which clocks differ to be worth a word: what is told in whole seconds, and takes its time, is no better known."""
_PROBE = "uploadcore-health"


class HealthBody(msgspec.Struct, omit_defaults=True):
    """How this process is, and what it stands on.

    `status` is `alive`, `ready`, `starting` or `draining`; `checks` says of each port `ok`, `unavailable` or `none`; `clock` names those
    ports whose clock is another than this process's, and how far it is ahead or behind.
    """

    status: str
    checks: Mapping[str, str]
    clock: Mapping[str, str] = {}


class LivenessBody(msgspec.Struct):
    """The process answers."""

    status: str


class Health:
    """What is wrong with the ports, at most `PROBE_INTERVAL` old.

    Nothing that is wrong with them fails a probe of ours: a load balancer that took every instance out for a database they share would
    make an outage of a hiccup.
    """

    def __init__(self, core: UploadCore, lifecycle: Lifecycle) -> None:
        """Look after these."""
        self._core = core
        self._lifecycle = lifecycle
        self._found: Mapping[str, str] = {}
        self._looked = Refreshed()

    @property
    def status(self) -> str:
        """`ready`, or why not."""
        if self._lifecycle.is_draining:
            return "draining"
        return "ready" if self._lifecycle.is_started else "starting"

    async def checks(self) -> Mapping[str, str]:
        """Each port's state; while draining as it was found last, for the load balancer is to hear of that at once."""
        if self._lifecycle.is_draining and self._found:
            return self._found
        await self._looked.within(PROBE_INTERVAL, self._look)
        return self._found

    async def _look(self) -> None:
        store, database, cache = await asyncio.gather(
            _probed(self._store()), _probed(self._database()), _probed(self._cache())
        )
        self._found = {"store": store, "database": database, "cache": cache}

    def clock(self) -> Mapping[str, str]:
        """The ports whose clock is not ours, as last heard."""
        offsets = {"store": clock_offset(self._core.store), "database": clock_offset(self._core.database)}
        return {
            port: f"{abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}"
            for port, offset in offsets.items()
            if offset is not None and abs(seconds := round(offset.total_seconds())) >= WRONG_CLOCK
        }

    async def _store(self) -> str:
        await self._core.store.head(Address(self._core.store.bucket, _PROBE))
        return "ok"

    async def _database(self) -> str:
        async with self._core.database.reader() as tx:
            await tx.uploads.get(_PROBE)
        return "ok"

    async def _cache(self) -> str:
        cache = self._core.cache
        if cache is None:
            return "none"
        # A cache never raises. One that did not answer may still have a copy of its own in this process; one that did, and does not have what
        # it was just given, does not work either.
        stored = await cache.set_if_newer(_PROBE, b"1", time.time_ns() // 1_000, ttl=timedelta(seconds=10))
        return "ok" if stored is not None and await cache.get(_PROBE) is not None else "unavailable"


async def _probed(probe: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            return await probe
    except (UploadCoreError, OSError, TimeoutError):
        return "unavailable"


class MetricsAccess:
    """Who may scrape: processes on this machine, and whoever has the token."""

    def __init__(self, token: str | None) -> None:
        """Without a token, this machine only."""
        self._token = None if token is None else token.encode()

    def check(self, scope: Mapping[str, Any]) -> None:
        """Let this request pass.

        Raises:
            ForbiddenError: It comes from elsewhere, or through a proxy, and has not the token.
        """
        if is_direct_loopback(scope):
            return
        token = bearer_token(scope["headers"])
        if self._token is None or token is None or not hmac.compare_digest(token, self._token):
            raise ForbiddenError("metrics are for this machine, or for the token in UPLOADCORE_METRICS_TOKEN")


_LIVE = Answer("The process answers.", LivenessBody, example={"status": "alive"})
_CHECKS = {"store": "ok", "database": "ok", "cache": "ok"}


@get(
    "/health/live",
    opt=operation_opt(
        Operation(id="isAlive", summary="Whether the process answers", answers={200: _LIVE}, is_public=True)
    ),
)
async def live(request: ApiRequest) -> BytesResponse:
    """Answer. Nothing else is asked: a process is not restarted because its database is away."""
    del request
    return json_response(LivenessBody("alive"))


@get(
    "/health/ready",
    opt=operation_opt(
        Operation(
            id="isReady",
            summary="Whether new work may be sent here, and what is wrong",
            answers={
                200: Answer("It may.", HealthBody, example={"status": "ready", "checks": _CHECKS}),
                503: Answer("It starts or drains.", HealthBody, example={"status": "draining", "checks": _CHECKS}),
            },
            is_public=True,
        )
    ),
)
async def ready(request: ApiRequest, health: NamedDependency[Health]) -> BytesResponse:
    """Started, not draining. The body tells what is wrong without failing for it."""
    del request
    checks = await health.checks()
    status = health.status  # asked afterwards: it may have begun to drain meanwhile
    body = HealthBody(status, checks, health.clock())
    return json_response(body, 200 if status == "ready" else 503)


@get(
    "/metrics",
    opt=operation_opt(
        Operation(
            id="getMetrics",
            summary="Metrics, for this machine or with the configured token",
            answers={200: Answer("Metrics.", media_type="text/plain")},
            codes=("forbidden",),
            is_public=True,
        )
    ),
)
async def metrics_text(
    request: ApiRequest, metrics: NamedDependency[Metrics], metrics_access: NamedDependency[MetricsAccess]
) -> BytesResponse:
    """What Prometheus scrapes."""
    metrics_access.check(request.scope)
    body, media_type = await metrics.scraped(request.header(b"accept") or "")
    return BytesResponse(body, 200, media_type)


@get(
    "/schema",
    opt=operation_opt(
        Operation(
            id="getSchema",
            summary="This document",
            answers={200: Answer("An OpenAPI 3.1 document.", dict)},
            is_public=True,
        )
    ),
)
async def schema(request: ApiRequest, document: NamedDependency[ApiDocument]) -> BytesResponse:
    """The OpenAPI document, with the address it was asked at."""
    return BytesResponse(document.at(Links.of(request.scope).to("") or "/"), 200, "application/json")


OPERATION_ROUTES = (live, ready, metrics_text, schema)
