"""Calls that are repeated, doubled on the way, or whose answers are lost: one effect, one answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from tests.chaos.http_proxy import HttpProxy, api_operation
from tests.chaos.lab import Lab
from tests.chaos.load import Client, call_many

__all__ = ["CI", "EXPERIMENTS"]

AT_ONCE = 64
LEASE = "60s"
"""Where nobody takes over from an instance that a slow machine has kept standing: that would be a second effect, and rightly so."""


async def thousand_replays(lab: Lab) -> str:
    """1,000 replays of initiate, complete and abort each, over two instances: one effect, one answer.

    Seen to fail with idempotency keys that are always granted: 150 uploads for one key.
    """
    count = lab.sized(1_000, 150)
    async with lab.world(UPLOADCORE_LEASE=LEASE) as world, Client(world.fleet.url, chance=lab.chance) as client:
        made, dropped = client.new(24), client.new(24)

        async def answers(call: Callable[[], Awaitable[object]]) -> list[object]:
            told, failed = await call_many(count, lambda _: call(), at_once=AT_ONCE)
            assert not failed, f"{len(failed)} of {count} failed: {failed[:3]}"
            return told

        begun = await answers(lambda: client.initiate(made))
        ids = {document["id"] for document in begun if isinstance(document, dict)}
        assert len(ids) == 1, f"one key, {len(ids)} uploads"
        created = world.store.answered["CreateMultipartUpload"]
        assert created == 1, f"one key, {created} multipart uploads"
        await client.send(made, made.parts)
        completed = await answers(lambda: client.complete(made))
        files = {str(document["file"]) for document in completed if isinstance(document, dict)}
        assert len(files) == 1, f"one upload, {len(files)} answers"
        assembled = world.store.answered["CompleteMultipartUpload"]
        assert assembled == 1, f"one upload, completed {assembled} times"
        await client.initiate(dropped)
        await answers(lambda: client.abort(dropped))
        books = await world.conserved([made])
        assert dict(books.states) == {"completed": 1, "aborted": 1}, dict(books.states)
    return (
        f"{count} replays each of initiate, complete and abort, {AT_ONCE} at once: "
        "rows 2, multipart uploads created 2, completions 1, answers 1 each, events 2"
    )


async def lost_and_doubled(lab: Lab) -> str:
    """Requests and answers lost and doubled, between client and service and between service and store: each upload once.

    Seen to fail with idempotency keys that are always granted: 40 uploads completed, and 21 more begun.
    """
    count = lab.sized(200, 40)
    async with lab.world() as world:
        balancer = urlsplit(world.fleet.url)
        front = HttpProxy(
            lab.proxies, balancer.hostname or "", balancer.port or 0, operation=api_operation, chance=lab.chance
        )
        try:
            faults = [
                front.faults.lose(share=0.1),
                front.faults.lose(share=0.1, edge="answer"),
                front.faults.duplicate(share=0.2),
                world.store.faults.lose(share=0.02),
                world.store.faults.lose(share=0.05, edge="answer"),
                world.store.faults.duplicate(share=0.1),
            ]
            async with Client(front.listen("clients"), chance=lab.chance) as client:
                uploads, failed = await call_many(count, lambda _: client.upload(client.new(24)))
            assert not failed, f"{len(failed)} of {count} uploads failed: {failed[:3]}"
            for fault in faults:
                fault.end()
            books = await world.conserved(uploads)
        finally:
            front.close()
        assert len(books.uploads) == books.states["completed"] == count, dict(books.states)
        async with Client(world.fleet.url) as reader:
            for upload in uploads[:10]:
                assert await reader.content(upload) == upload.body
    met = [fault.met for fault in faults]
    return (
        f"{count} uploads; of the clients' calls {met[0]} lost, {met[1]} answers lost, {met[2]} doubled; "
        f"of the store's {met[3]}, {met[4]}, {met[5]}; completed {count}, rows {count}, lost 0, duplicates 0"
    )


EXPERIMENTS = (thousand_replays, lost_and_doubled)
CI = (thousand_replays,)
