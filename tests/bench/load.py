"""A load generator for one endpoint: keep-alive connections that each send the next request when the last was answered."""

from __future__ import annotations

import re
import selectors
import socket
import time
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class _Connection:
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    expected: int | None = None

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


def rate(port: int, request: bytes, *, seconds: float, connections: int = 16) -> float:
    """Requests answered per second."""
    selector = selectors.DefaultSelector()
    opened = []
    for _ in range(connections):
        connection = _Connection(socket.create_connection(("127.0.0.1", port)))
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.socket.sendall(request)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        opened.append(connection)
    answered = 0
    begun = time.perf_counter()
    end = begun + seconds
    try:
        while time.perf_counter() < end:
            for key, _ in selector.select(timeout=5):
                connection = key.data
                received = connection.socket.recv(262_144)
                if not received:
                    raise RuntimeError("the server closed the connection")
                connection.received += received
                if connection.answered():
                    answered += 1
                    connection.socket.sendall(request)
        return answered / (time.perf_counter() - begun)
    finally:
        selector.close()
        for connection in opened:
            connection.socket.close()


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
