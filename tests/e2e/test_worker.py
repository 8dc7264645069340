"""`worker` as operators use it: real processes, a real receiver of webhooks, real signals."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.integration.webhooks.conftest import SECRET
from tests.integration.webhooks.receiving import Receiver, nothing, receiving, status
from tests.servers.process import free_port
from tests.soak.service import COMMAND, Service, running, wait_until
from uploadcore_app import load_settings, open_app


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
def service(tmp_path: Path, receiver: Receiver) -> Service:
    """Not started; its destination is the receiver, and it delivers nothing by itself."""
    url = f"http://127.0.0.1:{receiver.port}/hooks#secret={SECRET}&allow=127.0.0.1"
    return Service(tmp_path, UPLOADCORE_EVENTS=f"crm={url}", UPLOADCORE_BACKGROUND="false")


def one_pass(service: Service) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [*COMMAND, "worker", "--once"],
        env=service.environment,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=service.folder,
        check=False,
    )
    assert "Traceback" not in ran.stderr
    assert SECRET not in ran.stdout + ran.stderr
    return ran


def aborted_upload(service: Service) -> str:
    """One that left an event, at a service that runs."""
    upload: str = service.call("POST", "/v1/uploads", {"filename": "a.bin", "size": 5})["id"]
    service.call("DELETE", f"/v1/uploads/{upload}")
    return upload


async def leave_an_event(service: Service) -> None:
    """What a service that was stopped left."""
    async with open_app(load_settings(data_dir=service.data_dir)) as app:
        upload = await app.core.uploads.initiate(owner="dev", filename="a.bin", size=5)
        await app.core.uploads.abort(upload.id, owner="dev")


@contextmanager
def worker(service: Service) -> Iterator[subprocess.Popen[bytes]]:
    """A worker while the block runs. Its log goes where the service's does."""
    with service.log.open("ab") as log:
        process = subprocess.Popen(
            [*COMMAND, "worker"], env=service.environment, stdout=subprocess.PIPE, stderr=log, cwd=service.folder
        )
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_what_a_service_leaves_a_worker_delivers(service: Service, receiver: Receiver) -> None:
    with running(service):
        upload = await asyncio.to_thread(aborted_upload, service)
        assert await asyncio.to_thread(service.stop) == 0
    assert receiver.received == [], "it was told not to"

    with worker(service) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"uploadcore is working\n"
        await receiver.until(1)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0

    [got] = receiver.received
    assert Webhook(SECRET).verify(got.body, got.headers)["data"]["upload_id"] == upload


async def test_a_worker_that_is_interrupted_lets_go_of_what_it_delivers_and_a_pass_tells_what_failed(
    service: Service, receiver: Receiver
) -> None:
    await leave_an_event(service)
    receiver.answer = nothing
    with worker(service) as first:
        await receiver.until(1)
        first.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(first.wait, 20) == 0
    receiver.answer = status(410)

    # At once, not when the first one's claim would have run out.
    again = await asyncio.to_thread(one_pass, service)

    assert (again.returncode, again.stdout) == (1, "swept: nothing to do\nrelayed: dead 1\n")
    assert "answers 410" in again.stderr, "in its log"
    one, other = receiver.received
    assert one.headers["webhook-id"] == other.headers["webhook-id"]


async def test_a_worker_waits_for_its_database_and_can_be_stopped_meanwhile(service: Service) -> None:
    service.environment["UPLOADCORE_DATABASE"] = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with worker(service) as process:
        await asyncio.to_thread(
            wait_until, lambda: "waiting for the database" in service.log.read_text(), 30, "it does not wait"
        )
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
