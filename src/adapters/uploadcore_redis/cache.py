"""The cache on Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from cachetools import TTLCache
from redis.exceptions import NoScriptError

from uploadcore.errors import InvalidRequestError
from uploadcore.ports import AdapterContext, Clock
from uploadcore.system import SystemClock
from uploadcore_redis.breaker import Breaker
from uploadcore_redis.connecting import Client, connect, tls_context
from uploadcore_redis.errors import UnansweredError, reason_of
from uploadcore_redis.near import MARKER_LIFE, NearCache
from uploadcore_redis.scripts import (
    DELETE,
    SET_IF_NEWER,
    Keys,
    Script,
    StoredValue,
    decode_value,
    encode_value,
    keys_of,
)
from uploadcore_redis.url import parse_url

__all__ = ["RedisCache", "from_url"]

log = logging.getLogger(__name__)

MAX_NEAR_TTL = 1.0
"""Seconds. What another process has changed is seen here that much later."""

PROBE_TIMEOUT = 1.0
"""Seconds for one probe, which nobody waits for; and for the first, when opening. Finding a new master takes several answers. Not less than
a call has."""

WARN_EVERY = 60.0
"""Seconds between two warnings of the same kind of error."""

_PROBE_KEY = "probe"


def from_url(url: str, context: AdapterContext) -> RedisCache:
    """The cache a URL asks for. Opens nothing.

    Raises:
        InvalidRequestError: The URL can't be used. The message shows no password.
    """
    del context
    return RedisCache(url)


class RedisCache:
    """A cache that several processes share, and that may be away at any time.

    No method raises, and none takes longer than `timeout`, whatever Redis does.

    Args:
        url: Such as `redis://user:password@host:6379/0`, `rediss://…`, `redis+sentinel://host1,host2/name?db=0`, `redis+cluster://host1,host2`.
            All of the following may be options in it too, `timeout=0.2`; seconds where they are durations here.
        timeout: For a whole call, connecting and waiting for a connection included. By default 100 ms: more than that, and the database is
            the quicker one to ask.
        max_connections: How many at most, per node in a cluster. By default 50.
        key_prefix: What every key in Redis begins with. By default `uploadcore:`.
        near_ttl: How long this process uses a value without asking Redis again; up to 1 s, which is the default.
        near_entries: For how many values it does. By default 1,000; 0 for none.
        clock: For probes and for what is kept in this process.

    Raises:
        InvalidRequestError: The URL or a value can't be used. The message shows no password.

    >>> RedisCache("redis+sentinel://:secret@10.0.0.1,10.0.0.2/main?timeout=0.2")
    RedisCache('redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/main')
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: timedelta | None = None,
        max_connections: int | None = None,
        key_prefix: str | None = None,
        near_ttl: timedelta | None = None,
        near_entries: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Understand the URL; connect to nothing."""
        self._url = parse_url(url)
        self._timeout: float = self._chosen("timeout", timeout, 0.1)
        self._max_connections: int = self._chosen("max_connections", max_connections, 50)
        self._prefix: str = self._chosen("key_prefix", key_prefix, "uploadcore:")
        self._near_ttl: float = self._chosen("near_ttl", near_ttl, MAX_NEAR_TTL)
        entries: int = self._chosen("near_entries", near_entries, 1_000)
        self._check()
        if entries < 0:
            raise InvalidRequestError(f"a cache's near_entries are 0 or more, not {entries}")
        self._tls = tls_context(self._url)
        clock = clock or SystemClock()
        self._near = NearCache(entries, self._near_ttl, clock)
        self._reading: dict[str, asyncio.Task[bytes | None]] = {}
        self._breaker = Breaker(self._probe, clock)
        self._probe_key = keys_of(self._prefix, _PROBE_KEY).value
        self._warned: TTLCache[str, bool] = TTLCache(16, WARN_EVERY, timer=clock.monotonic)
        self._was_away = False
        self._slots = asyncio.Semaphore(self._max_connections)
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url)!r})"

    async def open(self) -> None:
        """Connect, for a second at most: a Redis that is away does not keep a service from starting."""
        if self._client is None:
            self._slots = asyncio.Semaphore(self._max_connections)  # of this event loop
            client = self._client = connect(
                self._url,
                self._tls,
                # Less than a whole call has: a cluster's client looks for the new topology when a node times out, not when we cut it.
                socket_timeout=self._timeout * 0.8,
                max_connections=self._max_connections + 1,  # the probe's
            )
            if not await self._probe() and self._client is client:
                self._breaker.trip()

    async def close(self) -> None:
        """Let go of the connections. Idempotent."""
        client, self._client = self._client, None
        await self._breaker.close()
        # Somebody waits for them; they end by themselves, by their deadline.
        await asyncio.gather(*self._reading.values())
        self._near.clear()
        if client is not None:
            try:
                await client.close()
            except Exception as exc:  # noqa: BLE001 - it is on its way out, and a server that hangs may make closing fail too
                log.debug("closing the connections to the cache failed: %s", reason_of(exc))

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one that is still alive; `None` too if Redis does not say."""
        value = self._near.get(key)
        if value is not None:
            return value
        if not self._near.is_on:
            return await self._fetch(key)
        reading = self._reading.get(key)
        if reading is None:
            if self._breaker.is_open:
                return None
            reading = self._reading[key] = asyncio.create_task(self._fetch(key))
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        return await asyncio.shield(reading)

    async def set_if_newer(self, key: str, value: bytes, version: int, *, ttl: timedelta) -> bool | None:
        """Store unless a newer version, or its tombstone, was stored before. `None`: Redis did not answer.

        In Redis it lives for `ttl` less what a process may go on using it after it has read it: nowhere is it older than `ttl`.
        """
        if self._near.refuses(key, version):
            return False
        seconds = max(0.002, ttl.total_seconds())
        share = min(self._near_ttl, seconds / 2) if self._near.is_on else 0.0
        milliseconds, share_ms = round((seconds - share) * 1000), int(share * 1000)
        try:
            stored, newest, deleted = await self._run(
                SET_IF_NEWER,
                keys_of(self._prefix, key),
                version,
                encode_value(StoredValue(value, version, share_ms)),
                max(1, milliseconds),
                milliseconds + share_ms + int(MARKER_LIFE * 1000),
            )
        except UnansweredError:
            self._near.put(key, value, version, seconds=share)
            return None
        self._near.learn(key, newest=newest, deleted=deleted)
        if stored:
            self._near.put(key, value, version, seconds=share)
        return bool(stored)

    async def delete(self, key: str, version: int) -> bool | None:
        """Drop the value and leave a tombstone. `None`: Redis did not answer; in this process the tombstone stands."""
        self._near.learn(key, newest=version, deleted=version)
        try:
            _, newest, deleted = await self._run(DELETE, keys_of(self._prefix, key), version, int(MARKER_LIFE * 1000))
        except UnansweredError:
            return None
        self._near.learn(key, newest=newest, deleted=deleted)
        return True

    async def _fetch(self, key: str) -> bytes | None:
        where = keys_of(self._prefix, key).value
        try:
            found = await self._ask(where, lambda client: client.execute("GET", where))
        except UnansweredError:
            return None
        stored = None if found is None else decode_value(found)
        if stored is None:
            return None
        if self._near.put(key, stored.value, stored.version, seconds=stored.share_ms / 1000):
            return stored.value
        # While it was on its way, this process stored or deleted a newer one.
        return self._near.get(key)

    async def _run(self, script: Script, keys: Keys, *arguments: Any) -> Any:
        async def run(client: Client) -> Any:
            try:
                return await client.execute("EVALSHA", script.sha, len(keys), *keys, *arguments)
            except NoScriptError:  # a server that is new, or was told to forget
                return await client.execute("EVAL", script.text, len(keys), *keys, *arguments)

        return await self._ask(keys.value, run)

    async def _ask(self, key: str, ask: Callable[[Client], Awaitable[Any]]) -> Any:
        """Ask Redis about a key, within the deadline.

        Raises:
            UnansweredError: There was no answer, or an error for one.
        """
        client = self._client
        if client is None or self._breaker.is_open:
            raise UnansweredError
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                answer = await ask(client)
        except Exception as exc:
            # Whatever it is, redis-py's own slips on a connection that breaks included: a cache costs latency only.
            if self._client is client:  # else it was closed meanwhile: nothing is to be probed any more
                self._probe_key = key  # in a cluster this one's node is away, others may not be
                self._breaker.failed()
            self._warn(exc)
            raise UnansweredError from exc
        self._breaker.succeeded()
        return answer

    async def _probe(self) -> bool:
        """Whether a key can be read. Not PING: that asks any node of a cluster, and no permission."""
        client = self._client
        if client is None:
            return False
        try:
            async with asyncio.timeout(max(PROBE_TIMEOUT, self._timeout)):
                await client.execute("GET", self._probe_key)
        except Exception as exc:  # noqa: BLE001 - as in _ask
            self._was_away = True
            self._warn(exc)
            return False
        if self._was_away:
            self._was_away = False
            log.info("the cache %s answers again", self._url)
        return True

    def _warn(self, exc: Exception) -> None:
        kind = type(exc).__name__
        if kind not in self._warned:
            self._warned[kind] = True
            reason = reason_of(exc)
            log.warning(
                "the cache %s does not answer: %s; the database does its work meanwhile",
                self._url,
                reason,
                extra={"reason": reason},
            )

    def _chosen(self, name: str, argument: Any, default: Any) -> Any:
        """The argument, or else the URL's option, or else the default."""
        if isinstance(argument, timedelta):
            argument = argument.total_seconds()
        return self._url.options.get(name, default) if argument is None else argument

    def _check(self) -> None:
        if not 0 < self._timeout <= 10:
            raise InvalidRequestError(f"a cache's timeout is more than 0 and up to 10 s, not {self._timeout:g} s")
        if self._max_connections < 1:
            raise InvalidRequestError(f"a cache needs one connection or more, not {self._max_connections}")
        if not self._prefix or set(self._prefix) & set("{}"):
            raise InvalidRequestError(
                "a cache's key_prefix is text without braces, which would decide a cluster's slot"
            )
        if not 0 <= self._near_ttl <= MAX_NEAR_TTL:
            raise InvalidRequestError(f"a cache's near_ttl is up to {MAX_NEAR_TTL:g} s, not {self._near_ttl:g} s")
