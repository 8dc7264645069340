"""An HTTP proxy that does what its faults say: between the service and its store, or between clients and the service.

It forwards every header as it came, `Host` included, so that signatures stay valid. Bodies are small here, and kept whole.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import h11

from tests.chaos.faults import Cut, Delay, Duplicate, Fault, Faults, Hold, Lose, Passing, ProxyLoop, Refuse

__all__ = ["HttpProxy", "api_operation", "s3_operation"]

CHUNK = 64 * 1024
_WAITS = (Hold, Delay, Lose)


def s3_operation(method: str, target: str) -> str:
    """What S3's API calls a request with the bucket in its path."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    is_object = parts.path.strip("/").count("/") > 0
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" in query:
        return {
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
            "PUT": "UploadPart",
        }[method]
    if not is_object:
        return {"GET": "ListObjects", "HEAD": "HeadBucket"}.get(method, f"{method}Bucket")
    return {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[method]


def api_operation(method: str, target: str) -> str:
    """What we call a request to the service: its method and the last word of its path that is no id."""
    words = [word for word in urlsplit(target).path.split("/") if word]
    if words[:2] == ["v1", "uploads"]:
        return {
            ("POST", 2): "initiate",
            ("GET", 2): "find",
            ("GET", 3): "get",
            ("DELETE", 3): "abort",
        }.get((method, len(words)), words[-1] if len(words) > 3 else "other")
    return f"{method} /{'/'.join(words[:2])}"


@dataclass(frozen=True, slots=True)
class _Message:
    head: h11.Request | h11.Response
    body: bytes

    def events(self) -> list[h11.Event]:
        data = [h11.Data(data=self.body)] if self.body else []
        return [self.head, *data, h11.EndOfMessage()]


class HttpProxy:
    """Listens on one port of loopback per source, and forwards to the far end.

    Attributes:
        faults: What goes wrong, by operation.
        calls: How often each operation was asked for, faults included; by name.
        answered: How often each operation was answered by the far end.
        statuses: The same, by operation and status.
    """

    def __init__(
        self,
        proxies: ProxyLoop,
        host: str,
        port: int,
        *,
        operation: Callable[[str, str], str] = s3_operation,
        chance: random.Random | None = None,
    ) -> None:
        self.faults = Faults(proxies, chance)
        self.calls: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self._proxies = proxies
        self._far = host, port
        self._operation = operation
        self._ports: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []

    def listen(self, source: str) -> str:
        """The address for this source."""
        if source not in self._ports:
            self._proxies.run(self._listen(source))
        return f"http://127.0.0.1:{self._ports[source]}"

    def close(self) -> None:
        """End it."""
        self.faults.clear()
        for server in self._servers:
            self._proxies.loop.call_soon_threadsafe(server.close)

    async def _listen(self, source: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far = _FarEnd(*self._far)
            try:
                with suppress(Cut, OSError, h11.ProtocolError):
                    await self._serve(source, reader, writer, far)
            finally:
                far.close()
                writer.transport.abort() if writer.is_closing() else writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
        self._servers.append(server)
        self._ports[source] = server.sockets[0].getsockname()[1]

    async def _serve(
        self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far: _FarEnd
    ) -> None:
        connection = h11.Connection(h11.SERVER)
        while (request := await _received(connection, reader, writer)) is not None:
            assert isinstance(request.head, h11.Request)
            try:
                answer = await self._answered(source, request, far)
            except (Cut, OSError, h11.ProtocolError):
                writer.transport.abort()
                raise
            for event in answer.events():
                writer.write(connection.send(event) or b"")
            await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answered(self, source: str, request: _Message, far: _FarEnd) -> _Message:
        assert isinstance(request.head, h11.Request)
        operation = self._operation(request.head.method.decode(), request.head.target.decode())
        self.calls[operation] += 1
        passing = Passing(source, operation)
        caught = self.faults.catching(passing, "request")
        for fault in caught:
            if isinstance(fault, Refuse):
                return _refusal(fault, request.head.method)
            if isinstance(fault, Duplicate):
                await far.exchange(request)
            await fault.befall()
        answer = await far.exchange(request)
        assert isinstance(answer.head, h11.Response)
        self.answered[operation] += 1
        self.statuses[operation, answer.head.status_code] += 1
        for fault in self.faults.catching(passing, "answer", _is_a_wait):
            await fault.befall()
        return answer


def _is_a_wait(fault: Fault) -> bool:
    return isinstance(fault, _WAITS)


def _refusal(fault: Refuse, method: bytes) -> _Message:
    body = f"<Error><Code>{fault.code}</Code><Message>planted</Message></Error>".encode()
    headers = [(b"Content-Type", b"application/xml"), (b"Content-Length", str(len(body)).encode())]
    return _Message(h11.Response(status_code=fault.status, headers=headers), b"" if method == b"HEAD" else body)


class _FarEnd:
    """A connection to the far end, opened when needed, kept while both sides keep it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._opened: tuple[asyncio.StreamReader, asyncio.StreamWriter, h11.Connection] | None = None

    async def exchange(self, request: _Message) -> _Message:
        if self._opened is not None and self._opened[0].at_eof():
            self.close()
        if self._opened is None:
            self._opened = (*await asyncio.open_connection(*self._address), h11.Connection(h11.CLIENT))
        reader, writer, connection = self._opened
        for event in request.events():
            writer.write(connection.send(event) or b"")
        await writer.drain()
        answer = await _received(connection, reader, writer)
        if answer is None:
            raise ConnectionResetError("the far end closed")
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            connection.start_next_cycle()
        else:
            self.close()
        return answer

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].transport.abort()


async def _received(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> _Message | None:
    """The next request or answer, whole; `None` where there is none any more."""
    head: h11.Request | h11.Response | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.our_role is h11.SERVER and connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                writer.write(connection.send(go_on) or b"")
            connection.receive_data(await reader.read(CHUNK))
        elif isinstance(event, h11.Request):
            # Answered here, so it must not reach the far end too. Nobody signs it.
            headers = [pair for pair in event.headers.raw_items() if pair[0].lower() != b"expect"]
            head = h11.Request(method=event.method, target=event.target, headers=headers)
        elif isinstance(event, h11.Response):
            head = h11.Response(status_code=event.status_code, headers=event.headers.raw_items(), reason=event.reason)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            return _Message(head, body)
        elif isinstance(event, h11.InformationalResponse):
            continue
        else:
            return None
