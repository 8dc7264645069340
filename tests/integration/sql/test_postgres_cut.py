"""Rule 7 where the database's answer is lost: a connection cut at each exchange in turn, and every change is made exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from tests.chaos.faults import Cut, Edge, Fault, ProxyLoop
from tests.chaos.tcp_proxy import TcpProxy, at_socket
from tests.integration.sql.conftest import patient
from tests.servers.postgres import PostgresServer
from uploadcore import UploadConfig, UploadCore
from uploadcore.errors import DatabaseUnavailableError, UploadBusyError
from uploadcore_memory import MemoryObjectStore
from uploadcore_sql import SqlDatabase
from uploadcore_sql.postgres_pulse import Pulse

OWNER = "u_1"
CONFIG = UploadConfig(
    lease=timedelta(seconds=0.2), lease_renewal=timedelta(seconds=0.1), completion_wait=timedelta(seconds=0.1)
)


@dataclass(kw_only=True)
class AtExchange(Fault):
    """Cuts one exchange with the server, the n-th."""

    number: int
    seen: int = 0

    def is_chosen(self) -> bool:
        self.seen += 1
        return self.seen == self.number

    async def befall(self) -> None:
        raise Cut


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[TcpProxy]:
    """Between us and the server."""
    folder = parse_qs(urlsplit(postgres_server._admin_url).query).get("host")
    if folder is None:
        pytest.skip("the proxy is for a server on a unix socket")
    proxies = ProxyLoop()
    proxy = TcpProxy(proxies, at_socket(f"{folder[0]}/.s.PGSQL.5432"))
    yield proxy
    proxy.close()
    proxies.close()


@dataclass
class World:
    """A core whose connections can be cut, and a connection that can't."""

    core: UploadCore
    store: MemoryObjectStore
    proxy: TcpProxy
    direct: asyncpg.Connection

    async def count(self, query: str, *arguments: str) -> int:
        found: int = await self.direct.fetchval(query, *arguments)
        return found

    async def events(self, upload_id: str) -> dict[str, int]:
        """How many of each type."""
        rows = await self.direct.fetch(
            "SELECT type, count(*) FROM uploadcore_events WHERE upload_id = $1 GROUP BY type", upload_id
        )
        return {row[0]: row[1] for row in rows}

    async def ready(self, name: str) -> str:
        """The id of an upload whose parts are all there."""
        upload = await self.core.uploads.initiate(owner=OWNER, filename=name, size=20, part_size=10)
        for part in await self.core.uploads.sign_parts(upload.id, owner=OWNER, part_numbers=[1, 2]):
            await self.store.put(part.request, b"x" * 10)
        return upload.id


@pytest.fixture
async def world(postgres_url: str, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(Pulse, "start", lambda self: None)  # its exchanges are not to be counted
    database = urlsplit(postgres_url).path
    far = SqlDatabase(patient(f"postgresql://postgres@127.0.0.1:{proxy.listen('us')}{database}?sslmode=disable"))
    await far.migrate()
    store = MemoryObjectStore()
    direct = await asyncpg.connect(postgres_url)
    async with UploadCore(store=store, database=far, config=CONFIG) as core:
        yield World(core, store, proxy, direct)
    await direct.close()


async def insist(world: World, call: Callable[[], Awaitable[bool]]) -> None:
    """Again and again, as a client does, until it is told that it is done; others take over in between."""
    async with asyncio.timeout(20):
        while True:
            try:
                if await call():
                    return
            except UploadBusyError:
                pass
            except DatabaseUnavailableError:
                continue
            await asyncio.sleep(0.02)
            try:
                await world.core.sweep()
            except DatabaseUnavailableError:
                continue


async def initiate(world: World, name: str) -> Callable[[], Awaitable[None]]:
    async def call() -> bool:
        upload = await world.core.uploads.initiate(
            owner=f"o-{name}", filename=name, size=20, part_size=10, idempotency_key=name
        )
        return upload.state == "uploading"

    await insist(world, call)

    async def check() -> None:
        assert await world.count("SELECT count(*) FROM uploadcore_uploads WHERE owner = $1", f"o-{name}") == 1
        assert await world.count("SELECT count(*) FROM uploadcore_files WHERE owner = $1", f"o-{name}") == 1
        assert await world.count("SELECT open_uploads FROM uploadcore_quotas WHERE owner = $1", f"o-{name}") == 1

    return check


async def complete(world: World, upload_id: str) -> Callable[[], Awaitable[None]]:
    async def call() -> bool:
        return (await world.core.uploads.complete(upload_id, owner=OWNER)).file is not None

    await insist(world, call)

    async def check() -> None:
        assert (await world.events(upload_id))["upload.completed"] == 1
        assert await world.count("SELECT count(*) FROM uploadcore_files WHERE upload_id = $1", upload_id) == 1

    return check


async def abort(world: World, upload_id: str) -> Callable[[], Awaitable[None]]:
    async def call() -> bool:
        return (await world.core.uploads.abort(upload_id, owner=OWNER)).state == "aborted"

    await insist(world, call)

    async def check() -> None:
        assert (await world.events(upload_id))["upload.aborted"] == 1

    return check


async def change(world: World, file_id: str) -> Callable[[], Awaitable[None]]:
    before = await world.count("SELECT version FROM uploadcore_files WHERE id = $1", file_id)

    async def call() -> bool:
        await world.core.files.update(file_id, owner=OWNER, title=f"changed {before}")
        return True

    await insist(world, call)

    async def check() -> None:
        assert await world.count("SELECT version FROM uploadcore_files WHERE id = $1", file_id) == before + 1

    return check


@pytest.mark.parametrize("edge", ["request", "answer"], ids=["before the server sees it", "after it was done"])
@pytest.mark.parametrize("operation", [initiate, complete, abort, change], ids=lambda one: one.__name__)
async def test_cut_at_any_exchange_it_is_done_exactly_once(
    world: World,
    operation: Callable[[World, str], Awaitable[Callable[[], Awaitable[None]]]],
    edge: Edge,
) -> None:
    cut = 0
    file_id = ""
    if operation is change:
        upload_id = await world.ready("changed")
        await complete(world, upload_id)
        file_id = (await world.core.uploads.get(upload_id, owner=OWNER)).file_id
    for number in range(1, 40):
        about = file_id or (f"upload-{number}" if operation is initiate else await world.ready(f"upload-{number}"))
        fault = AtExchange(edge=edge, number=number)
        world.proxy.faults.add(fault)
        check = await operation(world, about)
        fault.end()
        await check()
        cut += fault.met
        if not fault.met:
            break
    assert cut >= 2, "it takes some exchanges, and each was cut once"
    assert not fault.met, "and then it went through"
    reserved = await world.count("SELECT coalesce(sum(open_uploads), 0)::int FROM uploadcore_quotas")
    open_ = "SELECT count(*) FROM uploadcore_uploads WHERE state IN ('pending', 'uploading', 'completing', 'aborting')"
    assert reserved == await world.count(open_)
