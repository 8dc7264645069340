"""A completion outlasts its request: over real connections, cut while the store assembles, it ends without any further call."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import uvicorn

from tests.integration.http.service import CountingStore, Service, bearer, serving
from uploadcore import Checksum, FileStatus, UploadState
from uploadcore.address import Address
from uploadcore.plan import StoredPart


class SlowStore(CountingStore):
    """Assembles once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.told = asyncio.Event(), asyncio.Event()

    async def complete_multipart(
        self, address: Address, parts: Sequence[StoredPart], *, size: int, checksum: Checksum | None
    ) -> None:
        self.reached.set()
        await self.told.wait()
        await super().complete_multipart(address, parts, size=size, checksum=checksum)


@asynccontextmanager
async def listening(service: Service) -> AsyncIterator[int]:
    """The service on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(service.app, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve([listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


def completing(upload_id: str) -> bytes:
    """The request, as it goes over the connection."""
    headers = {**bearer(), "host": "127.0.0.1", "content-type": "application/json", "content-length": "2"}
    lines = [f"POST /v1/uploads/{upload_id}/complete HTTP/1.1", *(f"{name}: {said}" for name, said in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n{}").encode()


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_completion_whose_caller_hangs_up_ends_without_any_further_call(how: str) -> None:
    store = SlowStore()
    async with serving(store=store) as service, listening(service) as port:
        upload_id = await service.initiated()
        await service.upload_parts(upload_id)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(completing(upload_id))
        await store.reached.wait()

        if how == "reset":
            writer.transport.abort()
        else:
            writer.close()
        assert service.database.uploads[upload_id].state is UploadState.COMPLETING
        store.told.set()

        for _ in range(500):
            if service.database.uploads[upload_id].state is UploadState.COMPLETED:
                break
            await asyncio.sleep(0.01)
        (file,) = service.database.files.values()
        assert file.status is FileStatus.AVAILABLE
        assert [event.type for event in service.database.events] == ["upload.completed"]
        assert store.calls.count("complete_multipart") == 1


async def test_whoever_asks_again_meanwhile_gets_the_same_answer() -> None:
    store = SlowStore()
    async with serving(store=store) as service, listening(service) as port:
        upload_id = await service.initiated()
        await service.upload_parts(upload_id)
        _, first = await asyncio.open_connection("127.0.0.1", port)
        first.write(completing(upload_id))
        await store.reached.wait()
        first.transport.abort()

        reader, second = await asyncio.open_connection("127.0.0.1", port)
        second.write(completing(upload_id))
        store.told.set()

        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = json.loads(await reader.readexactly(int(length.split(b":")[1])))
        assert (body["upload"]["state"], body["file"]["status"]) == ("completed", "available")
        assert store.calls.count("complete_multipart") == 1
        second.close()
