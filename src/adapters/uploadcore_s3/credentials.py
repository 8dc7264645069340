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
"""While credentials are too short for what is asked and nobody gives longer ones, this is how long after an answer they are asked for again."""
_PATIENCE = timedelta(seconds=0.5)
"""From when longer ones were asked for, how long a signer waits for them whose own are good for a shorter URL. Renewing takes a fraction of it."""


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
        self._answered_at: datetime | None = None
        self._renewal: asyncio.Task[StoreUnavailableError | None] | None = None

    async def lasting(self, expires_in: timedelta) -> tuple[Credentials, datetime, timedelta]:
        """What to sign with, the instant to sign at, and for how long: as long as asked for, or as they last less a minute.

        They are renewed first where they don't last that long; who can do with what there is does not wait for one who gives none. Whole seconds,
        as in the URL, so that what is told of its end is true.

        Raises:
            InvalidRequestError: It is less than a second.
            StoreUnavailableError: There are none, or they are about to expire and were not renewed.
        """
        now = self._clock.now()
        wanted = min(expires_in, MAX_LIFE)
        if self._is_too_short(now, wanted):
            await self._renewed(now)
        credentials = self._held
        assert credentials is not None, "asked for above"
        now = self._clock.now().replace(microsecond=0)
        life = wanted if credentials.expires_at is None else min(wanted, credentials.expires_at - MARGIN - now)
        seconds = life // timedelta(seconds=1)
        if wanted < timedelta(seconds=1):
            raise InvalidRequestError(f"a signed URL lives a second or more, not {wanted.total_seconds()} s")
        if seconds < 1:
            raise StoreUnavailableError("the credentials that sign are about to expire, and were not renewed")
        return credentials, now, timedelta(seconds=seconds)

    async def close(self) -> None:
        """Wait until nobody is asked any more: who would answer is closed already."""
        if self._renewal is not None:
            await asyncio.wait([self._renewal])

    async def _renewed(self, now: datetime) -> None:
        """Ask for new ones, all who need them together; what is held goes on signing where there are none for now.

        Raises:
            StoreUnavailableError: There are none, and what is held signs nothing any more.
        """
        if self._renewal is None or self._renewal.done():
            self._asked_at = now
            self._renewal = asyncio.create_task(self._renew())
        renewal, asked_at = self._renewal, self._asked_at
        assert asked_at is not None, "set with the renewal"
        if self._signs_at(now):
            patience = min(max(timedelta(0), asked_at + _PATIENCE - now), _PATIENCE)
            await asyncio.wait([renewal], timeout=patience.total_seconds())
            return
        # Shielded: others wait for the same.
        failure = await asyncio.shield(renewal)
        if failure is not None:
            raise failure

    async def _renew(self) -> StoreUnavailableError | None:
        try:
            self._held = await self._ask()
        except StoreUnavailableError as exc:
            return exc
        finally:
            self._answered_at = self._clock.now()
        return None

    def _signs_at(self, now: datetime) -> bool:
        held = self._held
        return held is not None and (held.expires_at is None or held.expires_at - MARGIN >= now + timedelta(seconds=1))

    def _is_too_short(self, now: datetime, wanted: timedelta) -> bool:
        held = self._held
        if held is None:
            return True
        if held.expires_at is None or now + wanted + MARGIN <= held.expires_at:
            return False
        return self._answered_at is None or not timedelta(0) <= now - self._answered_at < _ASK_AGAIN_AFTER
