"""A receiver, and publishers that send to it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest

from tests.integration.webhooks.receiving import Receiver, receiving
from uploadcore.events import Event, EventType
from uploadcore_webhooks import WebhookPublisher

SOURCE = "https://uploads.example.com"


def secret(text: str) -> str:
    """A secret as it is configured. The scan after the tests knows each by how it begins."""
    return f"whsec_{base64.b64encode(f'secret of the tests: {text}'.encode()).decode()}"


SECRET = secret("the one")


def event(number: int = 1) -> Event:
    """An event as the relay hands it over."""
    return Event(
        type=EventType.UPLOAD_COMPLETED,
        owner="u_1",
        upload_id=f"upload-{number}",
        file_id=f"file-{number}",
        id=f"upload-{number}-4",
        data={"filename": "größe.mp4", "size": "25"},
        occurred_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
        position=number,
    )


class PublisherFactory(Protocol):
    async def __call__(self, url: str, **options: Any) -> WebhookPublisher: ...


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
async def publisher_for() -> AsyncIterator[PublisherFactory]:
    """Opens publishers, which are closed when the test has ended."""
    publishers: list[WebhookPublisher] = []

    async def open_one(url: str, **options: Any) -> WebhookPublisher:
        publisher = WebhookPublisher(url, source=SOURCE, **options)
        publishers.append(publisher)
        await publisher.open()
        return publisher

    yield open_one
    for publisher in publishers:
        await publisher.close()


@pytest.fixture
async def publisher(receiver: Receiver, publisher_for: PublisherFactory) -> WebhookPublisher:
    """One that sends to the receiver."""
    return await publisher_for(f"http://127.0.0.1:{receiver.port}/hooks?token=1#secret={SECRET}&allow=127.0.0.1")
