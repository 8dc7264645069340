"""The store refuses a fifth of all calls, hangs, or has credentials that run out in the middle of an upload."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.chaos.conservation import Violation, read_books
from tests.chaos.fleet import until
from tests.chaos.http_proxy import HttpProxy, s3_operation
from tests.chaos.lab import Lab, World
from tests.chaos.load import CallError, Client, Uploaded, call_many, each, token
from tests.chaos.measuring import Readiness, beside, percentile
from uploadcore_client import AsyncClient, RetryPolicy

__all__ = ["CI", "EXPERIMENTS"]

SHARE = 0.2
STOCK_PARTS = 4
USABLE = 4
"""Seconds a URL lives, of credentials that last for a minute more."""
SUCCEEDING = 0.999
SIGNED_AT_ONCE = 4
UNCHANGED = 2.0
"""How many times as much the slowest hundredth may take, of the larger of before and after: they differ by as much among themselves."""
THREADS, WAITING, COMPLETIONS = 2, 8, 16
"""Of an instance here: calls at a time, calls that may wait for them, and completions at a time on threads of their own."""
HELD = 100
"""Requests while the store hangs: more than there is room for, and than the database has connections."""
CLOSING = 40
"""Completions while it hangs: more than two instances have threads for."""
LEASE = 15.0
"""Seconds: so that leases are renewed while signing is measured, but not so often that it shows."""
APART = 0.02
"""Seconds between what is to hang: begun at once, all of it would renew its leases at once."""
FULL = "too many calls wait"
"""What who is refused for want of room is told."""
AT_ONCE = 3.0
"""Seconds within which a hundred at once are told that there is no room."""


def clients_proxy(lab: Lab, operation: Callable[[str, str], str] = s3_operation) -> HttpProxy:
    """A proxy before the store for what clients send."""
    endpoint = urlsplit(lab.store.endpoint)
    return HttpProxy(lab.proxies, endpoint.hostname or "", endpoint.port or 0, operation=operation, chance=lab.chance)


async def store_refuses(lab: Lab) -> str:
    """The store answers 503 to 20 % of calls, of the service and of clients: at least 99.9 % of uploads succeed.

    Seen to fail with 503 taken for a definite refusal to create: 12 of 100 uploads failed.
    """
    count = lab.sized(1_000, 100)
    parts = clients_proxy(lab)
    try:
        async with (
            lab.world(public_endpoint=parts.listen("clients")) as world,
            Client(world.fleet.url, chance=lab.chance) as client,
        ):
            faults = [proxy.faults.refuse(share=SHARE) for proxy in (world.store, parts)]
            began = time.monotonic()
            done, failed = await call_many(count, lambda _: client.upload(), at_once=24)
            took = time.monotonic() - began
            refused, calls = sum(fault.met for fault in faults), (world.store.calls + parts.calls).total()
            for fault in faults:
                fault.end()
            assert len(done) >= SUCCEEDING * count, f"{len(failed)} of {count} failed: {failed[:3]}"
            assert refused >= 0.7 * SHARE * calls, f"only {refused} of {calls} were refused"
            await world.conserved(done)
    finally:
        parts.close()
    return f"{refused} of {calls} calls refused; {len(done)} of {count} uploads succeeded, in {took:.0f} s"


async def store_hangs(lab: Lab) -> str:
    """The store hangs, completions first: who finds no room is told so at once; signing p99 unchanged; leases are kept; all ends well.

    Seen to fail with a database connection held during the calls: who needs the database alone was told that none came free.
    """
    count = lab.sized(1_200, 800)
    async with (
        lab.world(threads=THREADS, UPLOADCORE_LEASE=f"{LEASE:g}s") as world,
        Client(world.fleet.url, chance=lab.chance) as client,
        Client(world.fleet.url, chance=lab.chance, attempts=1) as signing,
    ):
        known, failed = await call_many(20, lambda _: _initiated(client), at_once=8)
        assert not failed, failed[:3]
        whole, failed = await call_many(CLOSING, lambda _: _sent(client), at_once=8)
        assert not failed, failed[:3]
        # Whoever looks at readiness takes time too: all along, or the comparison would be of that.
        async with Readiness(world.fleet) as readiness:
            before = percentile(await _sign(signing, known, count), 99)
            async with _hanging(world, client, whole) as hanging:
                during = percentile(await _sign(signing, known, count), 99)
                # Whoever needs the database alone is served.
                for upload in known:
                    await signing.call("state", "GET", f"/v1/uploads/{upload.upload_id}", owner=upload.owner)
                    await signing.call("uploads", "GET", "/v1/uploads", owner=upload.owner)
            after = percentile(await _sign(signing, known, count), 99)
        assert not readiness.failed, f"readiness failed {readiness.failed} of {readiness.asked} times"
        bad = {status: number for status, number in signing.statuses.items() if status != 200}
        assert not bad, f"signing while the store hangs: {bad}"
        assert during <= UNCHANGED * max(before, after), (
            f"p99 {before:.3f} s before, {during:.3f} s while it hangs, {after:.3f} s after"
        )
        await world.conserved(whole)
    return (
        f"{hanging}; signing p99 {before * 1000:.0f} ms before, {during * 1000:.0f} ms while it "
        f"hangs, {after * 1000:.0f} ms after; {signing.statuses.total()} calls that don't need the store, errors 0; all ended well"
    )


@asynccontextmanager
async def _hanging(world: World, client: Client, whole: list[Uploaded]) -> AsyncIterator[str]:
    """The store hangs for longer than leases take to be renewed: at first completions, more than there are threads for; then everything, and there is no room.

    What was seen, in words. In the end all is well: who hung goes on, who was refused tries again.
    """
    assembling = world.store.faults.hold("CompleteMultipartUpload")
    completing = await _begun(whole, client.complete)
    threads = len(world.fleet.instances) * COMPLETIONS
    await until(lambda: assembling.waiting >= threads, 30, f"only {assembling.waiting} completions hang")
    fenced = await _leases(world, len(whole))
    since = time.monotonic()
    wanted = [client.new(40) for _ in range(HELD)]
    with world.store.faults.hold() as hold:
        async with Client(world.fleet.url, attempts=1) as hurried:
            asked = await _begun(wanted, hurried.initiate)
            room = len(world.fleet.instances) * (THREADS + WAITING)
            await until(lambda: sum(one.done() for one in asked) >= HELD - room, 10, "nobody is told there is no room")
            slowest = max(hurried.seconds["initiate"])
            refused = [one.exception() for one in asked if one.done()]
            yield (
                f"{assembling.waiting} completions hang and {len(whole) - threads} wait for them, renewing their leases; {HELD} that need the "
                f"store: {hold.waiting} calls hang, {len(refused)} refused within {slowest:.1f} s"
            )
            await asyncio.sleep(since + 0.6 * LEASE - time.monotonic())
            kept = await _leases(world, len(whole))
            hold.release()
            assembling.end()
            await asyncio.gather(*asked, return_exceptions=True)
    for error in refused:
        assert isinstance(error, CallError), error
        assert (error.status, FULL in str(error), bool(error.retry_after)) == (503, True, True), error
    assert slowest <= AT_ONCE, f"who found no room was told so after {slowest:.1f} s"
    assert kept.keys() == fenced.keys(), f"{len(fenced.keys() - kept.keys())} completions changed hands"
    assert all(kept[one] > until for one, until in fenced.items()), "leases were not renewed"
    await each(wanted, client.initiate)
    await asyncio.gather(*completing)


async def _begun(
    uploads: list[Uploaded], call: Callable[[Uploaded], Coroutine[Any, Any, object]]
) -> list[asyncio.Future[object]]:
    """Begin it for each of them, one after another; wait for none."""
    tasks: list[asyncio.Future[object]] = []
    for upload in uploads:
        tasks.append(asyncio.ensure_future(call(upload)))
        await asyncio.sleep(APART)
    return tasks


async def _leases(world: World, count: int) -> dict[tuple[str, str], int]:
    """Until when each completion's lease stands, once there are so many; by upload and holder."""
    for _ in range(100):
        books = await read_books(world.database_url)
        rows = [row for row in books.uploads.values() if row["state"] == "completing"]
        if len(rows) == count:
            return {(row["id"], row["lease_owner"]): row["lease_until"] for row in rows}
        await asyncio.sleep(0.1)
    raise Violation(f"{len(rows)} uploads are completing, not {count}")


async def _sign(client: Client, known: list[Uploaded], count: int) -> list[float]:
    """Sign so many times; how long each took, in seconds, but for the first of them: connections are made, and what went before ends."""
    earlier = len(client.seconds.get("sign", [])) + count // 20
    _, failed = await call_many(
        count, lambda number: client.sign(known[number % len(known)], [1, 2]), at_once=SIGNED_AT_ONCE
    )
    if failed:
        raise failed[0]
    return client.seconds["sign"][earlier:]


async def _initiated(client: Client) -> Uploaded:
    upload = client.new(40)
    await client.initiate(upload)
    return upload


async def _sent(client: Client) -> Uploaded:
    upload = await _initiated(client)
    await client.send(upload, upload.parts)
    return upload


async def credentials_expire(lab: Lab) -> str:
    """Signing credentials expire mid-upload, on time and before their time: parts lost 0.

    Seen to fail with credentials that are not renewed: clients were told that they are about to expire.
    """
    count, length = lab.sized(12, 4), lab.sized(24, 16)
    parts = clients_proxy(lab, operation=_with_token)
    async with AsyncExitStack() as stack:
        stack.callback(parts.close)
        issuer = stack.enter_context(CredentialsIssuer(lab.store.access_key, lab.store.secret_key))
        world = await stack.enter_async_context(
            lab.world(
                public_endpoint=parts.listen("clients"),
                AWS_ACCESS_KEY_ID="",
                AWS_SECRET_ACCESS_KEY="",
                AWS_CONTAINER_CREDENTIALS_FULL_URI=issuer.url,
            )
        )
        parts.faults.delay(seconds=0.5)
        refusals = []

        async def revoke() -> None:
            await asyncio.sleep(lab.chance.uniform(1.5, 3.0))
            # All that were given out so far; who asks for new ones gets them.
            names = [f"UploadPart {name}" for name in issuer.issued]
            refusals.append(parts.faults.refuse(*names, status=403, code="ExpiredToken"))

        async with Client(world.fleet.url, chance=lab.chance) as stock:
            await _patient(stock, count)
        folder = lab.folder / world.bucket
        folder.mkdir()
        files = [folder / f"blob-{number}.bin" for number in range(count)]
        for file in files:
            file.write_bytes(lab.chance.randbytes(16 * length))
        async with (
            AsyncClient(
                world.fleet.url,
                token=token("owner-0"),
                parallel=2,
                state_dir=folder / "state",
                retry=RetryPolicy(attempts=20, initial=0.1, longest=1.0),
            ) as client,
            beside(revoke),
        ):
            await asyncio.gather(*(client.upload(file, part_size=16) for file in files))
        stored = sum(number for (name, status), number in parts.statuses.items() if _is_part(name) and status == 200)
        expired = sum(number for (name, status), number in parts.statuses.items() if _is_part(name) and status == 403)
        revoked = sum(refusal.met for refusal in refusals)
        assert expired >= count, f"only {expired} URLs ran out"
        assert revoked > 0, "no credentials were revoked"
        wanted = count * (length + STOCK_PARTS)
        assert stored == wanted, f"{stored} parts were stored, of {wanted}"
        books = await world.conserved()
        assert books.states["completed"] == len(books.uploads) == 2 * count, dict(books.states)
    return (
        f"{count} uploads of {length} parts by the SDK, {count} by a client that keeps its URLs too long; "
        f"{len(issuer.issued)} credentials issued, URLs refused that had run out {expired}, whose credentials were revoked {revoked}; parts stored {stored}, none twice, lost 0"
    )


async def _patient(client: Client, count: int) -> None:
    """Uploads whose client sends half, and waits with the rest until its URLs have run out."""

    async def one(_: int) -> None:
        upload = client.new(16 * STOCK_PARTS)
        await client.initiate(upload)
        half = STOCK_PARTS // 2
        await _sent_each(client, upload, upload.parts[:half])
        ends = datetime.fromisoformat(upload.parts[-1]["expires_at"])
        await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 1.5)
        await _sent_each(client, upload, upload.parts[half:])
        await client.complete(upload)

    _, failed = await call_many(count, one)
    if failed:
        raise failed[0]


async def _sent_each(client: Client, upload: Uploaded, parts: list[dict[str, Any]]) -> None:
    """Send parts; where a URL is no good any more, have the part signed for again."""
    waiting = list(parts)
    while waiting:
        try:
            await client.send(upload, waiting[:1])
        except CallError as error:
            if error.status != 403:
                raise
            waiting = await client.sign(upload, [part["part_number"] for part in waiting])
        else:
            waiting = waiting[1:]


class CredentialsIssuer:
    """Gives out temporary credentials, as a container's endpoint does: the same key, with another session token each time.

    They last for a minute and `USABLE` seconds: URLs end a minute before what signed them.

    Attributes:
        issued: The tokens given out.
    """

    def __init__(self, access_key: str, secret_key: str) -> None:
        self.issued: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer._issue(access_key, secret_key)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="credentials", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _issue(self, access_key: str, secret_key: str) -> dict[str, str]:
        name = f"token-{len(self.issued)}-secret-of-the-tests"
        self.issued.append(name)
        ends = datetime.now(UTC) + timedelta(seconds=60 + USABLE)
        return {
            "AccessKeyId": access_key,
            "SecretAccessKey": secret_key,
            "Token": name,
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _with_token(method: str, target: str) -> str:
    """An operation, and the session token that it was signed with."""
    signed = parse_qs(urlsplit(target).query).get("X-Amz-Security-Token", [""])[0]
    return f"{s3_operation(method, target)} {signed}"


def _is_part(name: str) -> bool:
    return name.startswith("UploadPart ")


EXPERIMENTS = (store_refuses, store_hangs, credentials_expire)
CI = ()
