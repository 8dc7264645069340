"""PostgreSQL away for half a minute, and connections that are lost at COMMIT."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial

import httpx

from tests.chaos.conservation import Violation
from tests.chaos.faults import Edge
from tests.chaos.fleet import Instance, until
from tests.chaos.lab import Lab
from tests.chaos.load import Client, Uploaded, call_many, each, token
from tests.chaos.measuring import Readiness, beside, checks

__all__ = ["CI", "EXPERIMENTS"]

ANSWERED = 2.0
"""Seconds within which everything is answered while the database is away."""
RECOVERED = 5.0
"""Seconds after it is back until everything is as it was."""
ATTEMPTS = 30
"""Of a client's calls: as many as half a minute takes."""


async def database_down(lab: Lab) -> str:
    """Database down 30 s: answers within 2 s, process restarts 0, recovered 5 s after it is back, acknowledged loss 0.

    With refused connections left unmapped, it failed: clients, who take a 500 for final, did not go on.
    """
    away = lab.sized(30, 8)
    async with (
        lab.world() as world,
        Client(world.fleet.url, chance=lab.chance, attempts=ATTEMPTS) as patient,
        httpx.AsyncClient(timeout=30, trust_env=False) as http,
    ):
        known, failed = await call_many(8, lambda _: _opened(patient), at_once=8)
        assert not failed, failed[:3]
        for instance in world.fleet.instances:
            await each(known, partial(_signed_by, patient, instance))
        acknowledged: list[Uploaded] = []

        async def upload() -> None:
            acknowledged.append(await patient.upload())

        async with Readiness(world.fleet) as readiness, beside(upload), beside(upload), beside(upload), beside(upload):
            await until(lambda: len(acknowledged) >= 8, 60, "the uploads do not proceed")
            before = len(acknowledged)
            world.database.down()
            answers, said = Answers(), {instance.name: set[str]() for instance in world.fleet.instances}
            end = time.monotonic() + away
            while time.monotonic() < end:
                for instance in world.fleet.instances:
                    await answers.ask(http, instance, known)
                    said[instance.name].add((await checks(instance))["database"])
                await asyncio.sleep(0.2)
            held = len(acknowledged)
            world.database.up()
            back = time.monotonic()
            took = await asyncio.gather(*(_recovered(http, instance, back) for instance in world.fleet.instances))
            await until(lambda: len(acknowledged) >= held + 8, 60, "the uploads do not go on")
        for upload_ in known:
            await patient.send(upload_, upload_.parts)
            await patient.complete(upload_)
        slow = {name: seconds for name, seconds in answers.slowest.items() if seconds > ANSWERED}
        assert not slow, f"answers took {slow} s"
        assert all(status in {200, 201, 503} for _, status in answers.statuses), dict(answers.statuses)
        assert ("sign", 503) not in answers.statuses, f"uploads known were not signed for: {dict(answers.statuses)}"
        # `ok` too: what was found is kept for two seconds.
        assert all("unavailable" in words <= {"ok", "unavailable"} for words in said.values()), f"health said {said}"
        assert not readiness.failed, f"readiness failed {readiness.failed} of {readiness.asked} times"
        ended = [instance.name for instance in world.fleet.instances if not instance.is_running]
        assert not ended, f"{ended} ended"
        await world.conserved([*acknowledged, *known])
    told = {f"{name} {status}": number for (name, status), number in sorted(answers.statuses.items())}
    return (
        f"away {away} s: answers {told}, slowest {max(answers.slowest.values()):.1f} s; restarts 0; "
        f"recovered after {', '.join(f'{seconds:.1f}' for seconds in took)} s; "
        f"acknowledged {before} before and {len(acknowledged) - before} after, lost 0"
    )


class Answers:
    """What instances answer, and how soon.

    Attributes:
        statuses: By what was asked, and the answer's.
        slowest: Seconds, by what was asked.
    """

    def __init__(self) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.slowest: dict[str, float] = {}

    async def ask(self, http: httpx.AsyncClient, instance: Instance, known: list[Uploaded]) -> None:
        """Ask it for everything, all at once."""
        upload = known[self.statuses.total() % len(known)]
        headers = {"Authorization": f"Bearer {token(upload.owner)}"}
        one = f"{instance.url}/v1/uploads/{upload.upload_id}"

        async def ask(name: str, method: str, url: str, body: object = None) -> None:
            began = time.monotonic()
            answer = await http.request(method, url, json=body, headers=headers)
            self.slowest[name] = max(self.slowest.get(name, 0.0), time.monotonic() - began)
            self.statuses[name, answer.status_code] += 1
            if answer.status_code == 503:
                assert answer.json()["code"] == "database_unavailable", answer.text
                assert "retry-after" in answer.headers, f"{name}: no Retry-After"

        await asyncio.gather(
            ask("initiate", "POST", f"{instance.url}/v1/uploads", {"filename": "a", "size": 1}),
            ask("sign", "POST", f"{one}/part-urls", {"part_numbers": [1]}),
            ask("state", "GET", one),
            ask("uploads", "GET", f"{instance.url}/v1/uploads"),
            ask("file", "GET", f"{instance.url}/v1/files/{'0' * 32}"),
        )


async def _opened(client: Client) -> Uploaded:
    upload = client.new(40)
    await client.initiate(upload)
    return upload


async def _signed_by(client: Client, instance: Instance, upload: Uploaded) -> None:
    """Have this one sign for it, and so know it."""
    path = f"/v1/uploads/{upload.upload_id}/part-urls"
    await client.call("sign", "POST", path, {"part_numbers": [1]}, owner=upload.owner, url=instance.url)


async def _recovered(http: httpx.AsyncClient, instance: Instance, back: float) -> float:
    """Seconds until it initiates again."""
    headers = {"Authorization": f"Bearer {token('owner-0')}"}
    while True:
        answer = await http.post(f"{instance.url}/v1/uploads", json={"filename": "a", "size": 1}, headers=headers)
        took = time.monotonic() - back
        if took > RECOVERED:
            raise Violation(f"{instance.name} answers {answer.status_code} {took:.1f} s after the database is back")
        if answer.status_code == 201:
            await http.delete(f"{instance.url}/v1/uploads/{answer.json()['id']}", headers=headers)
            return took
        await asyncio.sleep(0.1)


async def cut_at_commit(lab: Lab) -> str:
    """Connection lost at COMMIT, before and after the server has seen it, and at any other answer: applied exactly once.

    With a commit that was not answered taken for one that was made, it failed: uploads that were acknowledged were not found.
    """
    count = lab.sized(120, 9)
    async with lab.world() as world, Client(world.fleet.url, chance=lab.chance) as client:
        told = []
        done: list[Uploaded] = []
        aborted: list[Uploaded] = []
        faults = world.database.faults

        async def one(number: int) -> None:
            upload = client.new()
            await client.initiate(upload)
            if number % 4 == 0:
                await client.abort(upload)
                aborted.append(upload)
                return
            await client.send(upload, upload.parts)
            await client.complete(upload)
            done.append(upload)
            if number % 4 == 1:
                await client.delete_file(upload)

        cuts: tuple[tuple[str, tuple[bytes, ...], float, Edge], ...] = (
            ("before COMMIT", (b"COMMIT",), 0.1, "request"),
            ("after COMMIT", (b"COMMIT",), 0.1, "answer"),
            ("any answer", (), 0.03, "answer"),
        )
        for name, markers, share, edge in cuts:
            with faults.lose(*markers, share=share, edge=edge) as planted:
                _, failed = await call_many(count, one, at_once=16)
            assert not failed, f"{name}: {len(failed)} failed at their client: {failed[:3]}"
            assert planted.met > 0, f"{name}: no connection was lost"
            told.append(f"{planted.met} {name}")
        books = await world.conserved(done)
        assert len(books.uploads) == len(done) + len(aborted), f"{len(books.uploads)} rows"
        assert books.states["completed"] == len(done), dict(books.states)
    return f"connections lost {', '.join(told)}; {3 * count} uploads, {dict(books.states)}, each applied once"


EXPERIMENTS = (database_down, cut_at_commit)
CI = (cut_at_commit,)
