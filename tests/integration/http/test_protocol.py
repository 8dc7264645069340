"""Bounds on the head of a request and on the time it takes to arrive, on a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any, cast

import pytest
import uvicorn

from uploadcore_http.protocol import MAX_HEAD, MAX_PIPELINED, BoundedHttpProtocol

ANSWER = b"HTTP/1.1 200 OK"


LARGE = 12 * 1024 * 1024
"""Bytes that no socket holds."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the size of the body; at `/data/refused` before there is one, at `/large` with a large one, at `/fields` with the head's."""
    size = 0
    if scope["path"] == "/data/refused":
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        return
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = str(size).encode()
    if scope["path"] == "/large":
        body = bytes(LARGE)
    if scope["path"] == "/fields":
        body = b",".join(name for name, _ in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def server_of(app: Any) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    config = uvicorn.Config(app, port=0, http=BoundedHttpProtocol, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


@asynccontextmanager
async def listening(app: Any = echo) -> AsyncIterator[int]:
    async with server_of(app) as (_, port):
        yield port


async def answer_to(port: int, *pieces: bytes) -> bytes:
    """What comes back until the server closes, or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await reader.read(65_536)
    except ConnectionResetError:  # it closed without having read what was sent last
        return b""
    finally:
        writer.close()


async def sent_until_cut(writer: asyncio.StreamWriter, piece: bytes) -> int:
    """How many bytes of what has no end the server takes before it closes the connection."""
    sent = 0
    try:
        while sent < 100 * MAX_HEAD:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
            await asyncio.sleep(0)  # the server's turn
    except ConnectionError:
        pass
    writer.close()
    return sent


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uploadcore_http.protocol.REQUEST_TIMEOUT", 0.1)


@asynccontextmanager
async def connected(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that is impatient as soon as it has it: what is sent over it may come late."""
    async with server_of(echo) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while timer_of(server) is None:  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.01)
        monkeypatch.setattr("uploadcore_http.protocol.REQUEST_TIMEOUT", 0.1)
        with closing(writer):
            yield reader, writer


async def test_a_head_of_ordinary_size_is_served() -> None:
    async with listening() as port:
        head = b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * (MAX_HEAD - 1_000)

        assert (await answer_to(port, head, b"\r\n\r\n")).startswith(ANSWER)


@pytest.mark.parametrize(
    "piece",
    [b"x-a: " + b"a" * 1_000 + b"\r\n", b"a" * 1_000],
    ids=["many headers", "one header, or one address"],
)
@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\nhost: x\r\n", b"GET /"])
async def test_a_head_without_end_is_refused_and_cut(begin: bytes, piece: bytes) -> None:
    async with listening() as port:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        sent = await sent_until_cut(writer, piece)

        assert sent < 20 * MAX_HEAD


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12",
        b"POST /v1?/data/ HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n",
    ],
    ids=["nothing", "a word", "half a head", "half a body", "a body that pretends"],
)
async def test_a_request_that_does_not_arrive_is_given_up(begun: bytes) -> None:
    async with listening() as port, asyncio.timeout(10):
        assert await answer_to(port, begun) == b""


async def test_bodies_of_files_have_the_time_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(monkeypatch) as (reader, writer):
        writer.write(b"PUT /data/x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.4)  # four times what a head would have
        writer.write(b"345")

        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(1) == b"5"


async def test_requests_on_one_connection_are_counted_one_by_one() -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * (MAX_HEAD // 2) + b"\r\n\r\n"
        for _ in range(5):
            writer.write(request[:1_000])
            await writer.drain()
            writer.write(request[1_000:])
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(ANSWER)
            await reader.readexactly(1)
        writer.close()


async def test_a_body_that_was_refused_and_drips_on_does_not_hold_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asyncio.timeout(10), connected(monkeypatch) as (reader, writer):
        writer.write(b"GET /data/refused HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 403")
        closed = asyncio.create_task(reader.read())
        while not closed.done():  # each byte puts off what ends idle connections
            writer.write(b"1")
            await asyncio.wait([closed], timeout=0.01)
        await asyncio.gather(closed, return_exceptions=True)


CHUNKED = b"POST %s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_fields_that_follow_a_body_are_not_added_to_the_heads() -> None:
    """A proxy in front has set or checked those of the head, and of these it knows nothing."""
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED % b"/fields" + b"1\r\na\r\n0\r\nauthorization: Bearer x\r\nx-user: victim\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        fields = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.close()

    assert fields == b"host,transfer-encoding"


@pytest.mark.parametrize("piece", [b"x-a: " + b"a" * 1_000 + b"\r\n", b"a" * 1_000], ids=["many", "one"])
@pytest.mark.parametrize("path", [b"/", b"/data/refused"])
async def test_fields_without_end_that_follow_a_body_are_refused_and_cut(path: bytes, piece: bytes) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED % path + b"1\r\na\r\n")
        if path != b"/":
            await reader.readuntil(b"\r\n\r\n")  # refused, and it goes on all the same
        writer.write(b"0\r\n")
        sent = await sent_until_cut(writer, piece)

        assert sent < 20 * MAX_HEAD


async def test_chunks_of_a_byte_are_a_body_like_any_other() -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED % b"/")
        for _ in range(100):
            writer.write(b"1\r\na\r\n" * 1_000)
            await writer.drain()
        writer.write(b"0\r\n\r\n")

        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(6) == b"100000"
        writer.close()


async def test_what_is_no_request_does_not_hold_an_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(10), connected(monkeypatch) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(ANSWER)
        await reader.readexactly(1)
        writer.write(b"\r\n")

        assert await reader.read() == b""


async def test_after_what_is_no_request_one_has_all_its_time() -> None:
    begun = asyncio.Semaphore(0)

    async def beginning(scope: Any, receive: Any, send: Any) -> None:
        begun.release()
        await echo(scope, receive, send)

    async with server_of(beginning) as (server, port), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            for _ in range(2):
                writer.write(b"\r\n")
                while (idle := timer_of(server)) is None:  # noqa: ASYNC110 - a server tells nobody
                    await asyncio.sleep(0.01)
                writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n")
                await begun.acquire()

                assert idle.cancelled()
                assert timer_of(server) not in {None, idle}
                writer.write(b"1")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(ANSWER)
                await reader.readexactly(1)


def timer_of(server: uvicorn.Server) -> asyncio.TimerHandle | None:
    """What ends the wait for a request on the only connection, once there is one and while it waits."""
    return next((cast("BoundedHttpProtocol", one)._timer for one in server.server_state.connections), None)


# --- answers that are not taken -----------------------------------------------------------------------------------


def slow_reader(port: int) -> socket.socket:
    """A client that takes nothing unless told to."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.setblocking(False)
    return client


async def is_cut(client: socket.socket) -> bool:
    """Whether what comes ends before the answer does."""
    loop = asyncio.get_running_loop()
    size = 0
    try:
        while some := await loop.sock_recv(client, 1024 * 1024):
            size += len(some)
    except ConnectionError:
        pass
    return size < LARGE


@pytest.mark.parametrize("more", [b"", b"connection: close\r\n"], ids=["kept alive", "closed"])
async def test_an_answer_that_nobody_takes_is_cut_off(monkeypatch: pytest.MonkeyPatch, more: bytes) -> None:
    monkeypatch.setattr("uploadcore_http.protocol.ANSWER_TIMEOUT", 0.1)
    async with server_of(echo) as (server, port), asyncio.timeout(30):
        with slow_reader(port) as client:
            client.send(b"GET /large HTTP/1.1\r\nhost: x\r\n" + more + b"\r\n")
            while not server.server_state.connections:  # noqa: ASYNC110 - a server tells nobody
                await asyncio.sleep(0.01)
            while server.server_state.connections:  # noqa: ASYNC110 - a server tells nobody
                await asyncio.sleep(0.01)

            assert await is_cut(client)


async def test_an_answer_that_is_taken_slowly_is_not_cut_off() -> None:
    """Whenever something was taken the time that it may take is over: how soon that is, is for the machine to say."""
    loop = asyncio.get_running_loop()
    async with server_of(echo) as (server, port), asyncio.timeout(60):
        with slow_reader(port) as client:
            client.send(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            size = looks = 0
            while some := await loop.sock_recv(client, 1024 * 1024):
                size += len(some)
                looks += sum(has_looked(cast("BoundedHttpProtocol", one)) for one in server.server_state.connections)

    assert size > LARGE
    assert looks > 2


def has_looked(protocol: BoundedHttpProtocol) -> bool:
    """Whether some of the answer was taken since it was looked at last, and so it was again, as if the time for that had come."""
    timer, left = protocol._answer_timer, protocol.transport.get_write_buffer_size()
    if timer is None or not 0 < left < timer._args[0]:
        return False
    timer._run()
    assert protocol._answer_timer not in {None, timer}, "it is looked at again"
    return True


@pytest.mark.parametrize("was_paused", [True, False], ids=["a body that nobody takes", "nothing else"])
async def test_reading_goes_on_with_the_answer_only_where_it_stopped_for_it(was_paused: bool) -> None:
    """uvicorn has reasons of its own not to read on: a body that nobody takes would be kept, a piece more at each pause of the answer."""
    async with server_of(echo) as (server, port):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not server.server_state.connections:  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.01)
        [protocol] = server.server_state.connections
        assert isinstance(protocol, BoundedHttpProtocol)
        for _ in range(2):
            if was_paused:
                protocol.flow.pause_reading()

            protocol.pause_writing()
            assert protocol.flow.read_paused
            protocol.resume_writing()

            assert protocol.flow.read_paused is was_paused
        writer.close()


async def test_a_request_is_not_begun_before_the_answer_to_the_one_before_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        await echo(scope, receive, send)

    loop = asyncio.get_running_loop()
    async with listening(counting) as port, asyncio.timeout(60):
        with slow_reader(port) as client:
            client.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
            while not begun:  # noqa: ASYNC110 - a server tells nobody
                await asyncio.sleep(0.01)
            client.send(b"GET /late HTTP/1.1\r\nhost: x\r\n\r\n")
            for _ in range(20):
                assert (await answer_to(port, b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n")).startswith(ANSWER)
            assert [path for path in begun if path != "/other"] == ["/large"]

            everything = 0
            while everything < 3 * LARGE:
                everything += len(await loop.sock_recv(client, 1024 * 1024))
            while begun[-1] != "/late":
                await loop.sock_recv(client, 1024 * 1024)

    assert [path for path in begun if path != "/other"] == ["/large"] * 3 + ["/late"]


async def test_as_many_requests_at_once_as_may_wait_are_answered_in_order() -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = MAX_PIPELINED + 1
        for number in range(count):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (number, b"x" * number))
        sizes = []
        for number in range(count):
            await reader.readuntil(b"\r\n\r\n")
            sizes.append(int(await reader.readexactly(len(str(number)))))
        writer.close()

    assert sizes == list(range(count))


async def test_more_requests_at_once_than_may_wait_are_refused() -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * (MAX_PIPELINED + 2))  # of more it would leave some unread
        everything = await reader.read()
        writer.close()

    assert b"HTTP/1.1 400" in everything
    assert everything.count(b"HTTP/1.1 200") <= MAX_PIPELINED + 1


AMBIGUOUS = {
    "two lengths": b"content-length: 5\r\ncontent-length: 6\r\n\r\n12345",
    "a length and chunks": b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "chunks that are not last": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a length with a sign": b"content-length: +5\r\n\r\n12345",
    "a length in hexadecimal": b"content-length: 0x5\r\n\r\n12345",
    "a length of many digits": b"content-length: 99999999999999999999999\r\n\r\n12345",
    "a list of lengths": b"content-length: 5, 5\r\n\r\n12345",
    "a blank before the colon": b"content-length : 5\r\n\r\n12345",
    "a folded header": b"x-a: 1\r\n content-length: 5\r\n\r\n",
    "U+0000 in a header": b"x-a: \x00\r\n\r\n",
    "a chunk whose size is none": b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a chunk larger than said": b"transfer-encoding: chunked\r\n\r\n1\r\n12\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_a_request_whose_end_others_may_see_elsewhere_is_refused_and_nothing_after_it_served(rest: bytes) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\n" + rest + b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n")
        everything = await reader.read()
        writer.close()

    assert b"HTTP/1.1 400" in everything
    assert b"HTTP/1.1 200" not in everything


@pytest.mark.parametrize("target", [b"http://[", b"/\xff", b"evil.example:80", b"/a b", b""])
async def test_a_target_that_is_none_is_400(target: bytes) -> None:
    async with listening() as port:
        assert (await answer_to(port, b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")).startswith(b"HTTP/1.1 400")
