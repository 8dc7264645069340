"""The service, configured to send its events somewhere: by itself, or not."""

from __future__ import annotations

import asyncio
import json

from tests.integration.webhooks.conftest import SECRET
from tests.integration.webhooks.receiving import Receiver
from uploadcore_app import Container, load_settings
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
