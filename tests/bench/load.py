"""A load generator: keep-alive connections that each send the next request when the last was answered."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


Target = tuple[int, bytes]
"""A port, and the request it is sent."""


@dataclass
class _Connection:
    socket: socket.socket
    target: Target
    sent_at: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    expected: int | None = None

    @classmethod
    def to(cls, target: Target) -> _Connection:
        connected = socket.create_connection(("127.0.0.1", target[0]), timeout=10)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connected, target)

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(self.target[1])

    def receive(self) -> bool:
        """Read what has come; whether the answer is whole."""
        received = self.socket.recv(262_144)
        if not received:
            raise RuntimeError("the server closed the connection")
        self.received += received
        return self.answered()

    def answered(self) -> bool:
        """Whether the answer is whole; forgets it then. Raises if it is not a success."""
        if self.expected is None:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return False
            found = _LENGTH.search(self.received, 0, end + 2)
            if not found or not self.received.startswith(b"HTTP/1.1 2"):
                raise RuntimeError(f"unexpected answer: {bytes(self.received[:300])!r}")
            self.expected = end + 4 + int(found[1])
        if len(self.received) < self.expected:
            return False
        self.received.clear()
        self.expected = None
        return True


@dataclass
class Watched:
    """What became of the requests of a while: seconds each took, and what went wrong."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def rate(port: int, request: bytes, *, seconds: float, connections: int = 16) -> float:
    """Requests answered per second. Raises for any that is not."""
    began = time.perf_counter()
    watched = watch([(port, request)] * connections, seconds=seconds)
    if watched.errors:
        raise RuntimeError(watched.errors[0])
    return len(watched.seconds) / (time.perf_counter() - began)


def watch(targets: Sequence[Target], *, seconds: float) -> Watched:
    """Send each of these requests over a connection of its own, again and again; one that fails is opened again."""
    selector, watched = selectors.DefaultSelector(), Watched()

    def connect(target: Target) -> None:
        connection = _Connection.to(target)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send()

    for target in targets:
        connect(target)
    end = time.perf_counter() + seconds
    try:
        while (now := time.perf_counter()) < end:
            for key, _ in selector.select(timeout=end - now):
                connection: _Connection = key.data
                try:
                    if connection.receive():
                        watched.seconds.append(time.perf_counter() - connection.sent_at)
                        connection.send()
                except (OSError, RuntimeError) as error:
                    watched.errors.append(str(error))
                    selector.unregister(connection.socket)
                    connection.socket.close()
                    connect(connection.target)
        return watched
    finally:
        for key in list(selector.get_map().values()):
            key.data.socket.close()
        selector.close()


def get(path: str) -> bytes:
    """The bytes of one request, without a token."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: bytes, *, token: str | None = None) -> bytes:
    """The bytes of one request."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
