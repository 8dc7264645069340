"""What is sent, how it is signed, and what the answers mean."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook
from standardwebhooks.exceptions import WebhookVerificationError

from tests.integration.webhooks.conftest import SECRET, SOURCE, PublisherFactory, event, secret
from tests.integration.webhooks.receiving import Receiver, hang_up, nothing, status
from uploadcore import UploadCore
from uploadcore.errors import DeliveryError, UndeliverableError
from uploadcore.ports import EventPublisher
from uploadcore.relay import AT_ONCE
from uploadcore.testing import EventPublisherContract
from uploadcore_memory import ManualClock, MemoryDatabase, MemoryObjectStore
from uploadcore_webhooks import WebhookPublisher


class TestWebhookPublisher(EventPublisherContract):
    @pytest.fixture
    def publisher(self, receiver: Receiver, publisher: WebhookPublisher) -> WebhookPublisher:
        self.receiver = receiver
        return publisher

    async def arrived(self, publisher: EventPublisher) -> list[str]:
        return [json.loads(got.body)["id"] for got in self.receiver.received]


async def test_the_signature_is_the_schemes_and_covers_the_body(
    receiver: Receiver, publisher: WebhookPublisher
) -> None:
    await publisher.publish(event())

    [got] = receiver.received
    assert Webhook(SECRET).verify(got.body, got.headers)["id"] == "upload-1-4"
    for changed in (got.body.replace(b"25", b"26"), got.body + b" "):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(changed, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret("another")).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(got.body, {**got.headers, "webhook-id": "upload-2-4"})


async def test_every_secret_signs_so_that_one_can_replace_another(
    receiver: Receiver, publisher_for: PublisherFactory
) -> None:
    old, new = secret("old"), secret("new")
    publisher = await publisher_for(
        f"http://127.0.0.1:{receiver.port}/#secret={new}&secret={old}&allow=127.0.0.0/8&timeout=5"
    )

    await publisher.publish(event())

    [got] = receiver.received
    for each in (old, new):
        assert Webhook(each).verify(got.body, got.headers)
    assert len(got.headers["webhook-signature"].split(" ")) == 2


async def test_the_body_is_a_cloud_event(receiver: Receiver, publisher: WebhookPublisher) -> None:
    await publisher.publish(event(7))

    [got] = receiver.received
    assert got.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    read = JSONFormat().read(None, got.body)
    assert (read.get_id(), read.get_source(), read.get_type()) == ("upload-7-4", SOURCE, "uploadcore.upload.completed")
    assert read.get_extension("sequence") == "00000000000000000007"
    assert json.loads(got.body)["data"] == {
        "upload_id": "upload-7",
        "file_id": "file-7",
        "owner": "u_1",
        "filename": "größe.mp4",
        "size": "25",
    }


async def test_path_and_query_are_sent_and_what_is_behind_the_hash_is_not(
    receiver: Receiver, publisher: WebhookPublisher
) -> None:
    await publisher.publish(event())

    [got] = receiver.received
    assert (got.method, got.target, got.headers["host"]) == ("POST", "/hooks?token=1", f"127.0.0.1:{receiver.port}")
    assert "secret" not in str(got)
    assert "whsec_" not in str(got)


async def test_an_event_that_is_delivered_again_has_the_same_id(
    receiver: Receiver, publisher: WebhookPublisher
) -> None:
    receiver.answer = hang_up
    with pytest.raises(DeliveryError):
        await publisher.publish(event())
    receiver.answer = status(200)
    await publisher.publish(event())

    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "upload-1-4"


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_2xx_is_delivered(receiver: Receiver, publisher: WebhookPublisher, code: int) -> None:
    receiver.answer = status(code)

    await publisher.publish(event())


@pytest.mark.parametrize("code", [300, 301, 304, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 599])
async def test_any_other_answer_is_no_delivery(receiver: Receiver, publisher: WebhookPublisher, code: int) -> None:
    receiver.answer = status(code)

    with pytest.raises(DeliveryError, match=f"answers {code}$"):
        await publisher.publish(event())


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("120", 120.0),
        ("Thu, 01 Jan 2026 12:02:00 GMT", 120.0),
        ("soon", 0.0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", 0.0),
        ("-5", 0.0),
        ("Thu, 01 Jan 2026 12:02:00", 0.0),
    ],
)
async def test_who_asks_to_be_left_alone_for_a_while_is(
    receiver: Receiver, publisher_for: PublisherFactory, told: str, seconds: float
) -> None:
    noon = ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
    publisher = await publisher_for(f"http://127.0.0.1:{receiver.port}/#secret={SECRET}&allow=127.0.0.1", clock=noon)
    receiver.answer = status(503, f"Retry-After: {told}")

    with pytest.raises(DeliveryError) as failed:
        await publisher.publish(event())

    assert failed.value.retry_after == seconds


async def test_410_is_for_good(receiver: Receiver, publisher: WebhookPublisher) -> None:
    receiver.answer = status(410)

    with pytest.raises(UndeliverableError, match="410"):
        await publisher.publish(event())


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(receiver: Receiver, publisher: WebhookPublisher, code: int) -> None:
    receiver.answer = status(code, f"Location: http://127.0.0.1:{receiver.port}/elsewhere")

    with pytest.raises(DeliveryError):
        await publisher.publish(event())

    assert [got.target for got in receiver.received] == ["/hooks?token=1"]


async def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, publisher_for: PublisherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    publisher = await publisher_for(f"http://127.0.0.1:{receiver.port}/#secret={SECRET}&allow=127.0.0.1")

    await publisher.publish(event())

    assert len(receiver.received) == 1


async def test_a_connection_is_used_again(receiver: Receiver, publisher: WebhookPublisher) -> None:
    for number in range(3):
        await publisher.publish(event(number))

    assert (len(receiver.received), receiver.connections) == (3, 1)


async def test_a_connection_the_receiver_closed_meanwhile_costs_nothing(
    receiver: Receiver, publisher: WebhookPublisher
) -> None:
    async def answer_and_close(writer: asyncio.StreamWriter) -> None:
        await status(204)(writer)
        writer.close()

    receiver.answer = answer_and_close
    for number in range(3):
        await publisher.publish(event(number))
        assert publisher._pool is not None
        while not all(one.has_expired() for one in publisher._pool.connections):  # noqa: ASYNC110 - it is told when it looks
            await asyncio.sleep(0)  # the receiver closes it: the news is on its way

    assert receiver.connections == 3


async def test_the_time_signed_is_the_databases(receiver: Receiver, publisher: WebhookPublisher) -> None:
    """Its clock is a quarter of an hour ahead of this machine's, which is more than receivers forgive."""

    class FarDatabase(MemoryDatabase):
        clock_offset = timedelta(minutes=14)

    core = UploadCore(store=MemoryObjectStore(), database=FarDatabase(), publishers={"crm": publisher})
    async with core:
        upload = await core.uploads.initiate(owner="u_1", filename="a", size=1)
        await core.uploads.abort(upload.id, owner="u_1")
        assert (await core.relay()).delivered == 1

    [got] = receiver.received
    ahead = int(got.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()
    assert abs(ahead - 14 * 60) < 60
    with pytest.raises(
        WebhookVerificationError, match="too new"
    ):  # by the clock here: so the signature is of that time too
        Webhook(SECRET).verify(got.body, got.headers)


async def test_a_clock_that_was_given_is_kept(publisher_for: PublisherFactory, receiver: Receiver) -> None:
    given = ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))
    publisher = await publisher_for(f"http://127.0.0.1:{receiver.port}/#secret={SECRET}&allow=127.0.0.1", clock=given)
    publisher.use_clock(ManualClock())

    await publisher.publish(event())

    assert receiver.received[0].headers["webhook-timestamp"] == str(int(given.now().timestamp()))


async def test_all_that_a_relay_delivers_at_once_has_a_connection(
    receiver: Receiver, publisher: WebhookPublisher
) -> None:
    receiver.answer = nothing
    deliveries = [asyncio.create_task(publisher.publish(event(number))) for number in range(AT_ONCE)]

    await receiver.until(AT_ONCE)  # none of them waits for another to end

    for delivery in deliveries:
        delivery.cancel()
    await asyncio.gather(*deliveries, return_exceptions=True)


async def test_connections_are_bounded(
    receiver: Receiver, publisher_for: PublisherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_webhooks.publisher.MAX_CONNECTIONS", 2)
    publisher = await publisher_for(f"http://127.0.0.1:{receiver.port}/#secret={SECRET}&allow=127.0.0.1")

    await asyncio.gather(*(publisher.publish(event(number)) for number in range(40)))

    assert len(receiver.received) == 40
    assert receiver.most_open == 2


async def test_no_log_line_and_no_error_has_secret_signature_or_query(
    receiver: Receiver, publisher: WebhookPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    for answer in (status(204), status(500), status(410), hang_up):
        receiver.answer = answer
        try:
            await publisher.publish(event())
        except (DeliveryError, UndeliverableError) as exc:
            told += [str(exc), repr(exc), str(exc.__cause__)]

    signatures = [got.headers["webhook-signature"] for got in receiver.received]
    shown = "\n".join((caplog.text, repr(publisher), str(publisher), *told))
    assert len(told) == 9
    for private in (SECRET, SECRET.removeprefix("whsec_"), "token=1", "/hooks", *signatures):
        assert private not in shown


async def test_one_that_is_closed_sends_nothing_until_it_is_opened_again(
    receiver: Receiver, publisher: WebhookPublisher
) -> None:
    await publisher.publish(event(1))
    await publisher.close()
    await publisher.close()
    with pytest.raises(DeliveryError, match="not open"):
        await publisher.publish(event(2))
    await publisher.open()
    await publisher.open()
    await publisher.publish(event(3))

    assert [got.headers["webhook-id"] for got in receiver.received] == ["upload-1-4", "upload-3-4"]
