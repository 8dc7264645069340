"""A receiver of webhooks whose every answer a test can script: a real server, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

PATIENCE = 30.0
"""Seconds until a test gives up waiting for what takes a moment."""


@dataclass(frozen=True)
class Received:
    """A request, as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def status(code: int, *headers: str) -> Answer:
    """An answer that says no more than this."""
    return sending("\r\n".join((f"HTTP/1.1 {code} -", *headers, "Content-Length: 0", "", "")).encode())


def sending(content: bytes) -> Answer:
    """These bytes."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(content)

    return answer


async def nothing(writer: asyncio.StreamWriter) -> None:
    """No answer, ever; the connection stays."""
    await asyncio.Event().wait()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """No answer: the connection is closed."""
    writer.close()


def dripping(head: bytes, drop: bytes) -> Answer:
    """A beginning, and then a little at a time, without end."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.01)

    return answer


def endless(head: bytes) -> Answer:
    """A beginning, and then as much as the other side takes."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    return answer


@dataclass
class Receiver:
    """What was received, and how it is answered."""

    port: int = 0
    answer: Answer = field(default_factory=lambda: status(204))
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    open_now: int = 0
    most_open: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no connection is open."""
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, count: int) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(PATIENCE), self.arrived:
            await self.arrived.wait_for(lambda: len(self.received) >= count)


@contextlib.asynccontextmanager
async def receiving(context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver on loopback while the block runs."""
    receiver = Receiver()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.decode().rstrip().split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            receiver.received.append(Received(method, target, headers, body))
            async with receiver.arrived:
                receiver.arrived.notify_all()
            await receiver.answer(writer)
            await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        receiver.connections += 1
        receiver.open_now += 1
        receiver.idle.clear()
        receiver.most_open = max(receiver.most_open, receiver.open_now)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
        receiver.open_now -= 1
        if not receiver.open_now:
            receiver.idle.set()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
