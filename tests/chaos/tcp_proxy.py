"""A TCP proxy that does what its faults say: between the service and PostgreSQL or Redis, and wherever bytes are all that is known."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.chaos.faults import Cut, Edge, Faults, Passing, ProxyLoop
from tests.servers.process import free_port

__all__ = ["Far", "TcpProxy", "at_host", "at_socket"]

Far = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Connects to the far end."""
CHUNK = 64 * 1024


def at_host(host: str, port: int) -> Far:
    """The far end listens on a port."""
    return lambda: asyncio.open_connection(host, port)


def at_socket(path: str) -> Far:
    """The far end listens on a unix socket."""
    return lambda: asyncio.open_unix_connection(path)


class TcpProxy:
    """Listens on one port of loopback per source, and forwards to the far end.

    A marker of a fault is looked for in each piece a client sends: at edge `request` the fault meets that piece before it is forwarded, at edge
    `answer` it meets the piece that the far end sends next. A statement in PostgreSQL's or Redis' protocol is one piece unless it is long.

    Attributes:
        faults: What goes wrong.
        sent: Bytes that clients sent, by source.
        unanswered: Those of them that the far end had not answered when their connection ended: what was in flight.
        unfinished: First lines of those requests.
    """

    def __init__(self, proxies: ProxyLoop, far: Far, chance: random.Random | None = None) -> None:
        self.faults = Faults(proxies, chance)
        self.sent: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.unfinished: list[bytes] = []
        self._proxies = proxies
        self._far = far
        self._ports: dict[str, int] = {}
        self._servers: dict[str, asyncio.Server] = {}
        self._open: dict[asyncio.StreamWriter, str] = {}

    def listen(self, source: str) -> int:
        """The port of this source."""
        if source not in self._ports:
            self._ports[source] = free_port()
            self._proxies.run(self._listen(source))
        return self._ports[source]

    def cut(self, source: str | None = None) -> None:
        """Cut the connections there are, of one source or of all; new ones are taken."""
        self._proxies.loop.call_soon_threadsafe(self._cut, source)

    def down(self) -> None:
        """Refuse connections, and cut those there are."""
        self._proxies.run(self._down())

    def up(self) -> None:
        """Take connections again, on the same ports."""
        for source in self._ports:
            if source not in self._servers:
                self._proxies.run(self._listen(source))

    def close(self) -> None:
        """End it."""
        self.faults.clear()
        self.down()

    async def _listen(self, source: str) -> None:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._converse(source, reader, writer)

        server = await asyncio.start_server(converse, "127.0.0.1", self._ports[source], backlog=512)
        self._servers[source] = server

    async def _down(self) -> None:
        servers, self._servers = self._servers, {}
        for server in servers.values():
            server.close()
        self._cut(None)

    def _cut(self, source: str | None) -> None:
        for writer, name in list(self._open.items()):
            if source is None or name == source:
                writer.transport.abort()

    async def _converse(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._open[writer] = source
        try:
            far_reader, far_writer = await self._far()
            ends.append(far_writer)
            self._open[far_writer] = source
            caught: list[bytes] = []
            ways = [
                asyncio.ensure_future(self._forward(source, "request", reader, far_writer, caught)),
                asyncio.ensure_future(self._forward(source, "answer", far_reader, writer, caught)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                self.unanswered[source] += sum(map(len, caught))
                self.unfinished += [piece.partition(b"\r\n")[0] for piece in caught[:1]]
        except OSError:
            pass  # the far end is away: so it looks to a client
        finally:
            for end in ends:
                self._open.pop(end, None)
                end.transport.abort()

    async def _forward(
        self,
        source: str,
        edge: Edge,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        caught: list[bytes],
    ) -> None:
        """One way. `caught` is what was sent since the far end was last heard."""
        with suppress(OSError, Cut):
            while piece := await reader.read(CHUNK):
                if edge == "request":
                    self.sent[source] += len(piece)
                    caught.append(piece)
                    asked = piece
                else:
                    asked, asked_in = b"".join(caught), len(caught)
                for fault in self.faults.catching(Passing(source, asked), edge):
                    await fault.befall()
                writer.write(piece)
                if edge == "answer" and not writer.transport.is_closing():
                    del caught[:asked_in]
                await writer.drain()
