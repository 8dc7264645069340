"""Events into a stream on a real server: what stands there, and what becomes of them while it is killed, hung, full, or back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest

from tests.integration.redis.conftest import Server, until
from tests.integration.redis.test_tls import Certificates, ending_tls
from tests.servers.redis import RedisServer
from uploadcore import UploadCore
from uploadcore.diagnosis import Finding, Needs, Verdict
from uploadcore.errors import DeliveryError, InvalidRequestError
from uploadcore.events import Event, EventType
from uploadcore.ports import AdapterContext, EventPublisher
from uploadcore.testing import EventPublisherContract
from uploadcore_app import load_settings, open_app
from uploadcore_memory import MemoryDatabase, MemoryObjectStore
from uploadcore_redis import RedisStreamPublisher, publisher_from_url

SOURCE = "https://uploads.example.com"
GENEROUS = 5.0
"""Seconds in which calls of 0.2 s each at most have ended."""
NEEDS = Needs(key_prefix="uploads", upload_lifetime=timedelta(days=1))


class PublisherFactory(Protocol):
    async def __call__(self, url: str) -> RedisStreamPublisher: ...


@pytest.fixture
async def publishing() -> AsyncIterator[PublisherFactory]:
    """Opens publishers, which are closed when the test has ended."""
    publishers: list[RedisStreamPublisher] = []

    async def open_one(url: str) -> RedisStreamPublisher:
        # Where the server answers, a machine that is busy with other things must not matter.
        patient = "" if "timeout=" in url else "&timeout=10"
        publisher = RedisStreamPublisher(url + patient, source=SOURCE)
        publishers.append(publisher)
        await publisher.open()
        return publisher

    yield open_one
    for publisher in publishers:
        await publisher.close()


def event(number: int = 1) -> Event:
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


def entries(server: RedisServer, stream: str = "uploads") -> list[dict[bytes, bytes]]:
    with Server(server).client() as client:
        found: Any = client.xrange(stream)
    return [fields for _, fields in found]


class TestRedisStreamPublisher(EventPublisherContract):
    @pytest.fixture
    async def publisher(self, redis_server: RedisServer, publishing: PublisherFactory) -> RedisStreamPublisher:
        self.server, self.stream = redis_server, f"contract-{uuid4().hex}"
        return await publishing(f"{redis_server.url}#stream={self.stream}")

    async def arrived(self, publisher: EventPublisher) -> list[str]:
        return [json.loads(entry[b"event"])["id"] for entry in entries(self.server, self.stream)]


async def test_an_entry_has_the_event_and_what_to_sort_it_by(
    own_redis: RedisServer, publishing: PublisherFactory
) -> None:
    publisher = await publishing(f"{own_redis.url}#stream=uploads")

    await publisher.publish(event(7))
    await publisher.publish(event(7))

    first, second = entries(own_redis)
    assert first == second, "delivered twice, it is there twice, with one id"
    assert (first[b"id"], first[b"type"]) == (b"upload-7-4", b"uploadcore.upload.completed")
    assert first[b"sequence"] == b"00000000000000000007"
    told = json.loads(first[b"event"])
    assert (told["specversion"], told["id"], told["source"]) == ("1.0", "upload-7-4", SOURCE)
    assert told["data"]["filename"] == "größe.mp4"


async def test_a_consumer_group_reads_what_a_core_announces(
    own_redis: RedisServer, publishing: PublisherFactory
) -> None:
    publisher = await publishing(f"{own_redis.url}#stream=uploads")
    core = UploadCore(store=MemoryObjectStore(), database=MemoryDatabase(), publishers={"sync": publisher})
    with Server(own_redis).client() as client:
        client.xgroup_create("uploads", "devices", id="$", mkstream=True)
        async with core:
            upload = await core.uploads.initiate(owner="u", filename="a", size=5)
            await core.uploads.abort(upload.id, owner="u")
            report = await core.relay()
        answered: Any = client.xreadgroup("devices", "phone", {"uploads": ">"})

    assert report.delivered == 1
    [[_, [(_, fields)]]] = answered
    assert json.loads(fields[b"event"])["data"]["upload_id"] == upload.id


async def test_the_settings_lead_there(own_redis: RedisServer) -> None:
    settings = load_settings(storage="memory://", database="memory://", events=f"sync={own_redis.url}#stream=uploads")
    async with open_app(settings) as app:
        upload = await app.core.uploads.initiate(owner="u", filename="a", size=5)
        await app.core.uploads.abort(upload.id, owner="u")
        report = await app.core.relay()

    assert report.destinations["sync"].delivered == 1
    [entry] = entries(own_redis)
    assert json.loads(entry[b"event"])["source"] == settings.base_url


async def test_the_stream_is_kept_to_about_as_many_entries_as_are_wanted(
    own_redis: RedisServer, publishing: PublisherFactory
) -> None:
    bounded = await publishing(f"{own_redis.url}#stream=uploads&maxlen=100")
    endless = await publishing(f"{own_redis.url}#stream=all&maxlen=0")

    for number in range(500):
        await bounded.publish(event(number))
        await endless.publish(event(number))

    assert 100 <= len(entries(own_redis)) <= 300, "the server drops whole nodes of 100"
    assert entries(own_redis)[-1][b"id"] == b"upload-499-4"
    assert len(entries(own_redis, "all")) == 500


async def test_many_at_once_wait_for_a_connection_and_all_arrive(
    own_redis: RedisServer, publishing: PublisherFactory
) -> None:
    publisher = await publishing(f"{own_redis.url}#stream=uploads&max_connections=2&timeout=10")

    await asyncio.gather(*(publisher.publish(event(number)) for number in range(100)))

    assert len(entries(own_redis)) == 100
    assert Server(own_redis).connections() <= 2


async def test_a_server_that_is_killed_gets_the_events_when_it_is_back(
    own_redis: RedisServer, publishing: PublisherFactory
) -> None:
    publisher = await publishing(f"{own_redis.url}#stream=uploads")
    await publisher.publish(event(1))
    own_redis.kill()
    for _ in range(3):
        with pytest.raises(DeliveryError, match=r"redis://127.0.0.1:\d+ does not take it: ConnectionError"):
            await publisher.publish(event(2))
    await asyncio.to_thread(own_redis.restart)

    await publisher.publish(event(2))

    assert [entry[b"id"] for entry in entries(own_redis)] == [b"upload-2-4"]


async def test_a_server_that_hangs_costs_no_more_than_the_deadline(
    own_redis: RedisServer, publishing: PublisherFactory
) -> None:
    publisher = await publishing(f"{own_redis.url}#stream=uploads&timeout=0.2&max_connections=4")
    own_redis.pause()
    try:
        async with asyncio.timeout(GENEROUS):
            outcomes = await asyncio.gather(
                *(publisher.publish(event(number)) for number in range(12)), return_exceptions=True
            )
        async with asyncio.timeout(GENEROUS):
            await publisher.close()
    finally:
        own_redis.resume()
    assert all(isinstance(outcome, DeliveryError) for outcome in outcomes)
    await publisher.open()

    async def arrives() -> bool:
        with contextlib.suppress(DeliveryError):
            await publisher.publish(event(99))
            return True
        return False

    await until(arrives)
    assert entries(own_redis)[-1][b"id"] == b"upload-99-4"


async def test_a_server_that_is_full_takes_nothing_and_quotes_nothing(
    own_redis: RedisServer, publishing: PublisherFactory
) -> None:
    publisher = await publishing(f"{own_redis.url}#stream=uploads")
    with Server(own_redis).client() as client:
        client.config_set("maxmemory", "1")  # an empty server may have less than a megabyte
        client.config_set("maxmemory-policy", "noeviction")

    with pytest.raises(DeliveryError, match="OutOfMemoryError") as refused:
        await publisher.publish(event())

    assert "größe" not in str(refused.value)


async def test_something_else_under_the_key_is_left_alone_and_told(
    own_redis: RedisServer, publishing: PublisherFactory
) -> None:
    publisher = await publishing(f"{own_redis.url}#stream=uploads")
    with Server(own_redis).client() as client:
        client.set("uploads", "mine")

        with pytest.raises(DeliveryError, match="ResponseError"):
            await publisher.publish(event())
        [finding] = await found_by(publisher)

        assert client.get("uploads") == b"mine"
    assert finding.verdict is Verdict.FAILED
    assert "a string" in finding.message


async def test_a_password_is_needed_and_not_shown(publishing: PublisherFactory) -> None:
    server = RedisServer()
    server.start()
    try:
        with Server(server).client() as client:
            client.config_set("requirepass", "secret of the tests")
        url = server.url.replace("redis://", "redis://:{}@") + "#stream=uploads"
        right = await publishing(url.format("secret%20of%20the%20tests"))
        await right.publish(event())
        wrong = await publishing(url.format("another"))
        with pytest.raises(DeliveryError, match="AuthenticationError") as refused:
            await wrong.publish(event())
        for shown in (str(refused.value), repr(right), repr(wrong)):
            assert "secret" not in shown
            assert "another" not in shown
    finally:
        server.stop()


async def test_it_goes_through_tls(own_redis: RedisServer, publishing: PublisherFactory, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.issue("server"))
    async with ending_tls(own_redis, context) as port:
        publisher = await publishing(f"rediss://127.0.0.1:{port}#stream=uploads&ca_file={certificates.ca}")
        await publisher.publish(event())
        stranger = await publishing(f"rediss://127.0.0.1:{port}#stream=uploads")
        with pytest.raises(DeliveryError):
            await stranger.publish(event())
        await publisher.close()
        await stranger.close()

    assert len(entries(own_redis)) == 1


async def found_by(publisher: RedisStreamPublisher) -> list[Finding]:
    return [finding async for finding in publisher.diagnose(NEEDS, apply=False)]


async def test_the_doctor_asks_and_adds_nothing(own_redis: RedisServer, publishing: PublisherFactory) -> None:
    publisher = await publishing(f"{own_redis.url}#stream=uploads")
    [fresh] = await found_by(publisher)
    assert entries(own_redis) == []
    await publisher.publish(event())
    [used] = await found_by(publisher)
    own_redis.kill()
    [away] = await found_by(publisher)

    assert (fresh.verdict, used.verdict, away.verdict) == (Verdict.OK, Verdict.OK, Verdict.FAILED)
    assert "ConnectionError" in away.message


async def test_one_that_is_closed_publishes_nothing(own_redis: RedisServer) -> None:
    publisher = RedisStreamPublisher(own_redis.url, source=SOURCE)
    await publisher.close()
    with pytest.raises(DeliveryError, match="not open"):
        await publisher.publish(event())


def test_a_url_chooses_it(tmp_path: Path) -> None:
    context = AdapterContext(data_dir=tmp_path, public_url=SOURCE)

    assert repr(publisher_from_url("redis://h#stream=s", context)) == "RedisStreamPublisher('redis://h:6379', 's')"
    assert "uploadcore:events" in repr(publisher_from_url("rediss://h", context))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:hunter2@h?stream=uploads", "options after a '#'"),
        ("redis://:hunter2@h#key_prefix=x", "takes max_connections, maxlen, stream, timeout"),
        ("redis://:hunter2@h#hunter2", "after '#' can't be read"),
        ("redis://:hunter2@h#maxlen=-1", "maxlen is no whole number"),
        ("redis://:hunter2@h#stream=", "stream is empty"),
        ("redis://:hunter2@h#timeout=0", "timeout is more than 0"),
        ("redis://:hunter2@h#timeout=11", "timeout is more than 0"),
        ("redis://:hunter2@h#max_connections=0", "one connection or more"),
        ("redis://:hun#ter2@h", "names no host"),
    ],
)
def test_what_can_not_be_used_is_said_without_the_password(url: str, told: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        RedisStreamPublisher(url, source=SOURCE)

    assert told in str(refused.value)
    assert "hunter2" not in str(refused.value) + str(refused.value.__cause__)
