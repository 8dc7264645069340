"""`kill -9` at each edge of initiate, complete and abort: before and after each effect at the store, and its recording."""

from __future__ import annotations

from tests.chaos.lab import Lab
from tests.chaos.load import Client, call_many

__all__ = ["CI", "EXPERIMENTS"]


async def steady(lab: Lab) -> str:
    """Nothing goes wrong: uploads through the balancer, and rule 9 holds."""
    count = lab.sized(200, 60)
    async with lab.world() as world, Client(world.fleet.url, chance=lab.chance) as client:
        results, failed = await call_many(count, lambda _: client.upload())
        assert not failed, failed[:3]
        for upload in results[:10]:
            assert await client.content(upload) == upload.body
        for upload in results[:20]:
            await client.delete_file(upload)
        books = await world.conserved([upload.upload_id for upload in results])
    return f"{count} uploads, {len(books.objects)} objects, {dict(books.states)}, statuses {dict(client.statuses)}"


EXPERIMENTS = (steady,)
CI = (steady,)
