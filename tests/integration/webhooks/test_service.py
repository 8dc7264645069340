"""The service, configured to send its events somewhere: by itself, or not."""

from __future__ import annotations

import asyncio
import json

from tests.integration.webhooks.conftest import SECRET
from tests.integration.webhooks.receiving import Receiver
from tests.servers.process import free_port
from uploadcore.diagnosis import Verdict
from uploadcore_app import Container, examine, load_settings
from uploadcore_http.application import Running, create_app


async def test_a_service_delivers_by_itself_unless_told_not_to(receiver: Receiver) -> None:
    for background in (False, True):
        settings = load_settings(
            storage="memory://",
            database="memory://",
            public_url="https://uploads.example.com",
            events=f"crm=http://127.0.0.1:{receiver.port}/#secret={SECRET}&allow=127.0.0.1",
            background=background,
        )
        container = Container()
        application = create_app(settings, container)
        async with Running.of(application).opened():
            core = container.core()
            upload = await core.uploads.initiate(owner="u", filename="a", size=1)
            await core.uploads.abort(upload.id, owner="u")
            if not background:
                tasks = {task.get_name() for task in asyncio.all_tasks()}
                assert "uploadcore background" not in tasks
                assert [waiting.pending for waiting in await core.events.backlog()] == [1]
                continue
            await receiver.until(1)

    [got] = receiver.received
    told = json.loads(got.body)
    assert (told["subject"], told["source"]) == (upload.id, "https://uploads.example.com")


async def test_the_doctor_looks_at_each_destination_by_itself_and_sends_nothing(receiver: Receiver) -> None:
    settings = load_settings(
        storage="memory://",
        database="memory://",
        events=f"gone=redis://:hunter2@127.0.0.1:{free_port()}/0 crm=http://127.0.0.1:{receiver.port}/#secret={SECRET}&allow=127.0.0.1",
    )

    found = {finding.check: finding async for finding in examine(settings) if finding.check.startswith("events")}

    assert {check: finding.verdict for check, finding in found.items()} == {
        "events.gone.reachable": Verdict.FAILED,
        "events.crm.reachable": Verdict.OK,
    }
    assert "hunter2" not in str(found)
    await receiver.idle.wait()  # it hears of the connection a moment after the doctor does
    assert (receiver.connections, receiver.received) == (1, [])


async def test_the_doctor_says_which_destination_can_not_be_used_and_shows_no_secret() -> None:
    settings = load_settings(
        storage="memory://", database="memory://", events=f"crm=http://crm.example.com#secret={SECRET}"
    )

    [found] = [finding async for finding in examine(settings) if finding.check.startswith("events")]

    assert (found.check, found.verdict) == ("events.configuration", Verdict.FAILED)
    assert found.message.startswith("UPLOADCORE_EVENTS, crm: http://crm.example.com: events go by https")
    assert SECRET not in str(found)
