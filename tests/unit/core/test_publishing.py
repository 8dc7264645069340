"""What an event looks like to other systems, and the host's own code as a destination."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest
from cloudevents.core.formats.json import JSONFormat

from uploadcore.errors import DeliveryError
from uploadcore.events import Event, EventType, cloud_event
from uploadcore.publishing import CallbackPublisher
from uploadcore.testing import make_event

EVENT = Event(
    type=EventType.UPLOAD_COMPLETED,
    owner="u_1",
    upload_id="a",
    file_id="f",
    id="a-4",
    data={"size": "25", "filename": "日本語 🎬.mp4"},
    occurred_at=datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC),
    position=7,
)


# --- CloudEvents --------------------------------------------------------------------------------------------------


def test_an_event_as_a_cloud_event_has_exactly_these_members() -> None:
    assert cloud_event(EVENT, source="https://uploads.example.com") == {
        "specversion": "1.0",
        "id": "a-4",
        "source": "https://uploads.example.com",
        "type": "uploadcore.upload.completed",
        "subject": "a",
        "time": "2026-01-02T03:04:05.000600Z",
        "datacontenttype": "application/json",
        "sequence": "00000000000000000007",
        "partitionkey": "a",
        "data": {"upload_id": "a", "file_id": "f", "owner": "u_1", "size": "25", "filename": "日本語 🎬.mp4"},
    }


def test_the_library_of_cloudevents_reads_it() -> None:
    told = json.dumps(cloud_event(EVENT, source="https://uploads.example.com")).encode()

    read = JSONFormat().read(None, told)

    assert (read.get_id(), read.get_type(), read.get_source()) == (
        ("a-4", "uploadcore.upload.completed", "https://uploads.example.com")
    )
    assert read.get_time() == EVENT.occurred_at
    assert read.get_extension("sequence") == "00000000000000000007"
    assert read.get_data() == {"upload_id": "a", "file_id": "f", "owner": "u_1", **EVENT.data}


def test_positions_compare_as_text_as_they_do_as_numbers() -> None:
    positions = [1, 9, 10, 99, 10**18, 2**63 - 1]

    told = [str(cloud_event(replace(EVENT, position=position), source="s")["sequence"]) for position in positions]

    assert told == sorted(told)
    assert [int(position) for position in told] == positions


def test_an_event_that_is_not_committed_yet_has_neither_time_nor_position() -> None:
    told = cloud_event(replace(EVENT, occurred_at=None, position=None), source="s")

    assert told.keys() & {"time", "sequence"} == set()


def test_the_time_is_utc_whatever_zone_it_was_given_in() -> None:
    elsewhere = datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))

    assert cloud_event(replace(EVENT, occurred_at=elsewhere), source="s")["time"] == "2026-01-02T03:04:05Z"


def test_an_event_of_a_type_of_a_later_version_is_told_as_it_is() -> None:
    assert cloud_event(replace(EVENT, type="upload.new"), source="s")["type"] == "uploadcore.upload.new"


# --- callbacks ----------------------------------------------------------------------------------------------------


class Called:
    """Notes what it was called with, and in which thread."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.append(threading.current_thread())


class CalledAsync(Called):
    async def __call__(self, event: Event) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().__call__(event)


async def noting(called: Called, event: Event) -> None:
    called(event)


@pytest.mark.parametrize(
    ("function_of", "in_loop"),
    [
        (lambda called: called, False),
        (lambda called: called.events.append, None),
        (lambda called: partial(noting, called), True),
    ],
    ids=["object", "built-in method", "partial of async"],
)
async def test_any_callable_is_called_an_async_one_in_the_loop_any_other_in_a_thread(
    function_of: Callable[[Called], Callable[[Event], Awaitable[object] | object]], in_loop: bool | None
) -> None:
    called = Called()
    publisher = CallbackPublisher(function_of(called))

    await publisher.open()
    await publisher.publish(make_event("e"))
    await publisher.close()

    assert [event.id for event in called.events] == ["e"]
    if in_loop is not None:
        assert (called.threads[0] is threading.current_thread()) is in_loop


async def test_an_object_with_an_async_call_is_called_in_the_loop() -> None:
    called = CalledAsync()

    await CallbackPublisher(called).publish(make_event("e"))

    assert called.threads == [threading.current_thread()]


async def test_a_function_that_is_not_async_but_returns_a_coroutine_is_waited_for() -> None:
    called = Called()

    await CallbackPublisher(lambda event: noting(called, event)).publish(make_event("e"))

    assert called.threads == [threading.current_thread()]


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_a_callback_raises_is_raised(is_async: bool) -> None:
    def fail(event: Event) -> None:
        raise ValueError(event.id)

    async def fail_later(event: Event) -> None:
        fail(event)

    with pytest.raises(ValueError, match="e"):
        await CallbackPublisher(fail_later if is_async else fail).publish(make_event("e"))


class Blocked:
    """Blocks its thread until it is let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun: list[str] = []

    def __call__(self, event: Event) -> None:
        self.begun.append(event.id)
        self.gate.wait(30)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - a thread tells nobody
            await asyncio.sleep(0.001)


async def given_up(publisher: CallbackPublisher, blocked: Blocked, event: Event) -> None:
    """Publish, and give up as the relay does once the call is under way."""
    delivery = asyncio.create_task(publisher.publish(event))
    await until(lambda: event.id in blocked.begun)
    delivery.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivery


async def test_an_event_whose_last_call_still_runs_is_not_called_again() -> None:
    blocked = Blocked()
    publisher = CallbackPublisher(blocked)
    await given_up(publisher, blocked, make_event("e"))

    with pytest.raises(DeliveryError, match="still runs"):
        await publisher.publish(make_event("e"))
    blocked.gate.set()
    await until(lambda: not publisher._running)
    await publisher.publish(make_event("e"))

    assert blocked.begun == ["e", "e"]
    await publisher.close()


async def test_callbacks_that_hang_take_threads_of_their_own_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uploadcore.publishing.THREADS", 1)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    blocked = Blocked()
    publisher = CallbackPublisher(blocked)
    await given_up(publisher, blocked, make_event("hangs"))
    waiting = asyncio.create_task(publisher.publish(make_event("waits")))

    assert await asyncio.to_thread(lambda: "free") == "free"

    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert publisher._running == {"hangs"}, "what had not begun is taken back"
    await publisher.close()
    await publisher.close()
    assert not blocked.gate.is_set(), "closing waits for nobody"
    blocked.gate.set()


async def test_one_that_is_closed_can_be_used_again() -> None:
    called = Called()
    publisher = CallbackPublisher(called)
    for number in range(2):
        await publisher.publish(make_event(str(number)))
        await publisher.close()

    assert [event.id for event in called.events] == ["0", "1"]
