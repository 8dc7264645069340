"""How often one caller may ask: whoever a request's token names, never what a header claims.

The library `limits` reads the limit and counts by it. Where it keeps its counts is ours, because its own memory does not fit an event loop
that serves many callers (5.8, measured): the asynchronous one walks through every caller on each request, a millisecond for 10,000 of
them; the other one does so in a thread, a hundred times a second.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from cachetools import TLRUCache
from limits import RateLimitItem, parse_many
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from uploadcore_http.auth import Principal
from uploadcore_http.problems import RateLimitedError

__all__ = ["MAX_CALLERS", "RateLimit"]

MAX_CALLERS = 100_000
"""Callers counted at a time, about 40 MiB; beyond, the one unheard of for longest begins anew."""
_PREFIX = 64
"""Bits of an IPv6 address that are one caller: a network of that size is one customer's (RFC 6177), who may choose the rest freely."""


class RateLimit:
    """Refuses a caller who asks too often. Counts in this process only: `n` instances let through up to `n` times the limit.

    A window begins with a caller's first request and ends as long after as the limit says; what is refused counts too, and makes it no longer.

    Args:
        limit: As `limits` reads it: `100/second`, `5000 per hour`, several with `;` between.
        max_callers: Callers counted at a time.
        timer: Seconds on a clock that never goes back.

    Raises:
        ValueError: The limit can't be read.

    >>> once = RateLimit("1/minute")
    >>> once.admit({}, Principal("u_1"))
    >>> once.admit({}, Principal("u_2"))
    >>> once.admit({}, Principal("u_1"))
    Traceback (most recent call last):
        ...
    uploadcore_http.problems.RateLimitedError: asked more often than 1 per 1 minute: try again in 60 s
    """

    def __init__(
        self, limit: str, *, max_callers: int = MAX_CALLERS, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._items = parse_many(limit)
        self._timer = timer
        self._windows = _Windows(max_callers * len(self._items), timer)
        self._limiter = FixedWindowRateLimiter(self._windows)

    def admit(self, scope: Mapping[str, Any], principal: Principal | None) -> None:
        """Count one request.

        Raises:
            RateLimitedError: It is one too many.
        """
        caller = ("peer", _peer(scope)) if principal is None else ("owner", principal.owner)
        for item in self._items:
            if not self._limiter.hit(item, *caller):
                raise self._refusal(item, caller)

    def _refusal(self, item: RateLimitItem, caller: tuple[str, str]) -> RateLimitedError:
        left = self._limiter.get_window_stats(item, *caller).reset_time - self._timer()
        return RateLimitedError(repr(item), retry_after=max(1, math.ceil(left)))


class _Window:
    """Requests of one caller since its first one."""

    __slots__ = ("count", "ends_at")

    def __init__(self, ends_at: float) -> None:
        self.count = 0
        self.ends_at = ends_at


class _Windows(Storage):
    """Where `limits` counts: windows that go when they end, or when there are too many."""

    STORAGE_SCHEME = None

    def __init__(self, maxsize: int, timer: Callable[[], float]) -> None:
        super().__init__()
        self._timer = timer
        self._kept: TLRUCache[str, _Window] = TLRUCache(maxsize, lambda _key, window, _now: window.ends_at, timer)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What `limits` would wrap: nothing is raised here."""
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count, in a new window if there is none."""
        window = self._kept.get(key)
        if window is None:
            window = self._kept[key] = _Window(self._timer() + expiry)
        window.count += amount
        return window.count

    def get(self, key: str) -> int:
        """What was counted."""
        window = self._kept.get(key)
        return 0 if window is None else window.count

    def get_expiry(self, key: str) -> float:
        """When the window ends, by the timer."""
        window = self._kept.get(key)
        return self._timer() if window is None else window.ends_at

    def check(self) -> bool:
        """Always well."""
        return True

    def reset(self) -> int:
        """Forget every caller."""
        count = len(self._kept)
        self._kept.clear()
        return count

    def clear(self, key: str) -> None:
        """Forget one."""
        self._kept.pop(key, None)


def _peer(scope: Mapping[str, Any]) -> str:
    """Who is at the other end of the connection; through a proxy that is the proxy, for what it says of others anybody can say."""
    client = scope.get("client")
    if not client:
        return "unknown"
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return str(client[0])
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), _PREFIX), strict=False))
