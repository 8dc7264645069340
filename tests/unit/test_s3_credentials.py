"""Who signs waits for as little as can be: credentials that are renewed, slowly, or not at all."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.unit.core.rig import until
from uploadcore.errors import StoreUnavailableError
from uploadcore_memory import ManualClock
from uploadcore_s3.credentials import MARGIN, SigningCredentials
from uploadcore_s3.signing import Credentials

WANTED = timedelta(minutes=15)


class Issuer:
    """Gives credentials that last for so long; or, from then on, nothing until it is let go."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.asked = 0
        self.lasting = timedelta(minutes=12)
        self.gives = asyncio.Event()
        self.gives.set()
        self.fails = False

    async def __call__(self) -> Credentials:
        self.asked += 1
        await self.gives.wait()
        if self.fails:
            raise StoreUnavailableError("no answer")
        return Credentials(f"AK{self.asked}", "secret", None, expires_at=self.clock.now() + self.lasting)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer(ManualClock())


@pytest.fixture
def held(issuer: Issuer) -> SigningCredentials:
    return SigningCredentials(issuer, issuer.clock)


async def test_who_has_credentials_that_sign_waits_for_no_longer_ones_that_do_not_come(
    issuer: Issuer, held: SigningCredentials
) -> None:
    await held.lasting(WANTED)
    issuer.gives.clear()
    for _ in range(5):
        issuer.clock.advance(2)
        credentials, now, life = await asyncio.wait_for(held.lasting(WANTED), 30)
        assert credentials.access_key == "AK1"
        assert now + life + MARGIN == credentials.expires_at
    assert issuer.asked == 2

    issuer.gives.set()
    await until(lambda: held._renewal is not None and held._renewal.done())

    assert (await held.lasting(timedelta(minutes=5)))[0].access_key == "AK2"
    await held.close()


async def test_who_has_nothing_to_sign_with_waits_and_all_ask_once(issuer: Issuer, held: SigningCredentials) -> None:
    issuer.gives.clear()
    waiting = [asyncio.create_task(held.lasting(WANTED)) for _ in range(10)]
    await until(lambda: issuer.asked == 1)
    waiting[0].cancel()  # who goes away takes nobody's renewal with them

    issuer.gives.set()

    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert [one[0].access_key for one in ended[1:] if isinstance(one, tuple)] == ["AK1"] * 9
    assert issuer.asked == 1


async def test_what_was_refused_is_asked_for_again_a_second_after_the_answer(
    issuer: Issuer, held: SigningCredentials
) -> None:
    await held.lasting(WANTED)
    issuer.fails = True
    for seconds, asked in ((2, 2), (0.5, 2), (0.6, 3)):
        issuer.clock.advance(seconds)
        assert (await held.lasting(WANTED))[0].access_key == "AK1"
        assert issuer.asked == asked

    issuer.clock.advance(12 * 60)
    with pytest.raises(StoreUnavailableError, match="no answer"):
        await held.lasting(WANTED)


async def test_what_is_closed_leaves_no_renewal_behind(issuer: Issuer, held: SigningCredentials) -> None:
    await held.lasting(WANTED)
    issuer.gives.clear()
    await held.lasting(WANTED)
    issuer.fails = True  # as whoever is closed does
    issuer.gives.set()

    await held.close()

    assert asyncio.all_tasks() == {asyncio.current_task()}
