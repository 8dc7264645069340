"""What signs URLs: kept at hand while it lasts, so that signing waits for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

from uploadcore.errors import InvalidRequestError, StoreUnavailableError
from uploadcore_s3.signing import Credentials

__all__ = ["MARGIN", "SigningCredentials", "WallClock"]

MARGIN = timedelta(seconds=60)
"""A URL dies this long before its credentials: the store's clock may be ahead, and a body takes time to begin."""
MAX_LIFE = timedelta(days=7)
"""Source: S3 API, "Authenticating Requests: Using Query Parameters", X-Amz-Expires."""
_ASK_AGAIN_AFTER = timedelta(seconds=1)
"""While credentials are too short for what is asked and nobody gives longer ones, they are asked for no more often than this."""


class WallClock(Protocol):
    """The one thing of `uploadcore.ports.Clock` that is needed here."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""


class SigningCredentials:
    """The credentials of one identity.

    Args:
        ask: Asks the SDK, which renews them where it is time. Where it blocks, it does so on a thread.
        clock: Says how long they still last.
    """

    def __init__(self, ask: Callable[[], Awaitable[Credentials]], clock: WallClock) -> None:
        self._ask = ask
        self._clock = clock
        self._held: Credentials | None = None
        self._asked_at: datetime | None = None
        self._asking = asyncio.Lock()

    async def lasting(self, expires_in: timedelta) -> tuple[Credentials, datetime, timedelta]:
        """What to sign with, the instant to sign at, and for how long: as long as asked for, or as they last less a minute.

        They are renewed first where they don't last that long. Whole seconds, as in the URL, so that what is told of its end is true.

        Raises:
            InvalidRequestError: It is less than a second.
            StoreUnavailableError: There are none, or they are about to expire and were not renewed.
        """
        now = self._clock.now()
        wanted = min(expires_in, MAX_LIFE)
        if self._is_too_short(now, wanted):
            async with self._asking:
                if self._is_too_short(now, wanted):
                    self._asked_at = now
                    await self._renew(now)
        credentials = self._held
        assert credentials is not None, "asked for above"
        now = now.replace(microsecond=0)
        life = wanted if credentials.expires_at is None else min(wanted, credentials.expires_at - MARGIN - now)
        seconds = life // timedelta(seconds=1)
        if wanted < timedelta(seconds=1):
            raise InvalidRequestError(f"a signed URL lives a second or more, not {wanted.total_seconds()} s")
        if seconds < 1:
            raise StoreUnavailableError("the credentials that sign are about to expire, and were not renewed")
        return credentials, now, timedelta(seconds=seconds)

    async def _renew(self, now: datetime) -> None:
        """Ask for new ones; what is held goes on signing where there are none for now."""
        try:
            self._held = await self._ask()
        except StoreUnavailableError:
            held = self._held
            if held is None or held.expires_at is None or held.expires_at - MARGIN <= now:
                raise

    def _is_too_short(self, now: datetime, wanted: timedelta) -> bool:
        held = self._held
        if held is None:
            return True
        if held.expires_at is None or now + wanted + MARGIN <= held.expires_at:
            return False
        return self._asked_at is None or not timedelta(0) <= now - self._asked_at < _ASK_AGAIN_AFTER
