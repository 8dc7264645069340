"""A real uvicorn on loopback for the data endpoint, and ways to talk to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import uvicorn

from uploadcore.file import Checksum
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import MARKER, ObjectHeaders, SignedRequest
from uploadcore.testing import HttpAnswer
from uploadcore.upload import Address
from uploadcore_filesystem import FilesystemObjectStore
from uploadcore_filesystem.writing import BodyWriter
from uploadcore_http.data import data_app
from uploadcore_memory import ManualClock

HEADERS = ObjectHeaders("video/mp4", {MARKER: "upload-1"})
SECRET = b"0123456789abcdef0123456789abcdef"
MINUTE = timedelta(minutes=1)


@dataclass
class Served:
    """A store behind its endpoint, and one client of it."""

    store: FilesystemObjectStore
    client: httpx.AsyncClient
    clock: ManualClock
    root: Path
    port: int
    connections: list[Connection] = field(default_factory=list)

    @property
    def writers(self) -> frozenset[BodyWriter[object]]:
        """The requests whose bodies are being received."""
        receiver = self.store._receiver
        return frozenset() if receiver is None else receiver.writers

    @property
    def admitted(self) -> int:
        """How many of them have taken their part over."""
        return sum(len(multipart._writers) for multipart in self.store._multiparts._used.values())

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> HttpAnswer:
        answer = await self.client.request(method, url, headers=dict(headers), content=body)
        return HttpAnswer(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.content)

    async def send(self, signed: SignedRequest, body: bytes = b"", **headers: str) -> httpx.Response:
        """Redeem a signed request, with more headers (`_` for `-`) if need be."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(signed.method, signed.url, headers={**signed.headers, **more}, content=body)

    async def begin(self, key: str = "up/a") -> Address:
        address = Address(self.store.bucket, key)
        return Address(self.store.bucket, key, await self.store.create_multipart(address, HEADERS))

    async def sign(
        self, address: Address, number: int, length: int | None, *, offset: int = 0, checksum: Checksum | None = None
    ) -> SignedRequest:
        checksums = {} if checksum is None else {number: checksum}
        [signed] = await self.store.presign_parts(
            address, [Part(number, offset, length)], checksums=checksums, expires_in=MINUTE
        )
        return signed

    async def sign_put(
        self, key: str, length: int | None, *, headers: ObjectHeaders = HEADERS, checksum: Checksum | None = None
    ) -> SignedRequest:
        address = Address(self.store.bucket, key)
        return await self.store.presign_put(address, Part(1, 0, length), headers, checksum=checksum, expires_in=MINUTE)

    async def sign_get(self, key: str, *, filename: str = "trip.mp4", content_type: str = "video/mp4") -> SignedRequest:
        address = Address(self.store.bucket, key)
        return await self.store.presign_get(address, filename=filename, content_type=content_type, expires_in=MINUTE)

    async def put_part(self, address: Address, number: int, body: bytes, *, offset: int | None = 0) -> httpx.Response:
        """Send one part: of bound length at `offset`, or with neither."""
        length = None if offset is None else len(body)
        answer = await self.send(await self.sign(address, number, length, offset=offset or 0), body)
        assert answer.status_code == 200, answer.text
        return answer

    async def put_object(self, key: str, body: bytes) -> None:
        answer = await self.send(await self.sign_put(key, len(body)), body)
        assert answer.status_code == 200, answer.text

    async def complete(self, address: Address) -> None:
        """Complete with whatever is listed."""
        listed = await self.store.list_parts(address)
        await self.store.complete_multipart(address, listed, size=sum(part.size for part in listed), checksum=None)

    async def content(self, key: str = "up/a") -> bytes:
        answer = await self.send(await self.sign_get(key))
        assert answer.status_code == 200, answer.text
        return answer.content

    async def connect(self, signed: SignedRequest, *, length: int | None, **headers: str) -> Connection:
        """A connection on which the head of a signed PUT was sent, and nothing of its body yet."""
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.connections.append(connection)
        split = urlsplit(signed.url)
        lines = [f"PUT {split.path}?{split.query} HTTP/1.1", f"Host: {split.netloc}"]
        lines += [f"{name}: {value}" for name, value in {**signed.headers, **headers}.items()]
        lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
        connection.writer.write("\r\n".join([*lines, "", ""]).encode())
        await connection.writer.drain()
        return connection


@dataclass
class Connection:
    """A client's end, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, body: bytes) -> None:
        self.writer.write(body)
        await self.writer.drain()

    async def status(self) -> int:
        """Of the answer."""
        line = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 10)
        return int(line.split()[1])

    async def error(self) -> bytes:
        """The rest of an answer that is one."""
        return await asyncio.wait_for(self.reader.readuntil(b"</Error>"), 10)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


@asynccontextmanager
async def listening(app: object, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an application on a socket."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1)  # type: ignore[arg-type]
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # Not `serve`: that takes the signals of the process, and looks ten times a second if it is to end.
    await server.startup(sockets=[listener])
    try:
        yield
    finally:
        await server.shutdown(sockets=[listener])


@asynccontextmanager
async def serving(root: Path, *, idle_timeout: float = 30.0) -> AsyncIterator[Served]:
    """A store in this folder, opened and served."""
    clock = ManualClock()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        store = FilesystemObjectStore(root, public_url=f"http://127.0.0.1:{port}", secret=SECRET, clock=clock)
        await store.open()
        async with (
            listening(data_app(store, idle_timeout=idle_timeout), listener),
            httpx.AsyncClient(timeout=30, trust_env=False, verify=False) as client,
        ):
            served = Served(store, client, clock, root, port)
            yield served
            for connection in served.connections:
                await connection.close()
        await store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - any condition, the disk's included
            await asyncio.sleep(0.001)


def files_below(root: Path) -> set[str]:
    """Every file in a store's folder but those that are always there."""
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return found - {"lock", "signing.key"}


def stored_sizes(parts: list[StoredPart]) -> list[tuple[int, int]]:
    return [(part.part_number, part.size) for part in parts]
