"""Rolling restarts: what operators do every day must cost nobody a request."""

from __future__ import annotations

import asyncio
import time

from tests.chaos.lab import Lab
from tests.chaos.load import Client, Uploaded

__all__ = ["CI", "EXPERIMENTS"]

CLIENTS = 8
DRAIN_DELAY = "4s"
"""The balancer looks five times a second, and twice before it believes: many times as long, for a machine that is busy."""


async def rolling_restarts(lab: Lab) -> str:
    """10 rolling restarts under load (SIGTERM, drain, the balancer's look at readiness): failed requests 0, without a second try.

    Seen to fail with a drain of no time: the balancer, which tries nothing twice, answered 502.
    """
    rounds = lab.sized(10, 1)
    done: list[Uploaded] = []
    stopping = asyncio.Event()
    async with (
        lab.world(UPLOADCORE_DRAIN_DELAY=DRAIN_DELAY) as world,
        Client(world.fleet.url, chance=lab.chance, attempts=1) as client,
    ):

        async def busy() -> None:
            while not stopping.is_set():
                done.append(await client.upload(client.new(24)))

        begun = time.monotonic()
        load = [asyncio.ensure_future(busy()) for _ in range(CLIENTS)]
        try:
            for _ in range(rounds):
                for instance in world.fleet.instances:
                    status = await world.fleet.restart(instance)
                    assert status == 0, f"{instance.name} ended with {status}"
                    for one in load:
                        if one.done():
                            one.result()
        finally:
            stopping.set()
            ended = await asyncio.gather(*load, return_exceptions=True)
        failed = [each for each in ended if isinstance(each, BaseException)]
        assert not failed, f"{len(failed)} requests failed: {failed[:3]}"
        books = await world.conserved(done)
        assert books.states["completed"] == len(books.uploads) == len(done), dict(books.states)
        requests = sum(client.statuses.values())
    return (
        f"{rounds} rolling restarts of {len(world.fleet.instances)} instances in {time.monotonic() - begun:.0f} s, "
        f"{requests} requests of {len(done)} uploads, failed 0"
    )


EXPERIMENTS = (rolling_restarts,)
CI = EXPERIMENTS
