"""No event goes to an address the operator did not mean: a name is resolved once, what it leads to is checked, and that is connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from tests.integration.webhooks.conftest import SECRET, PublisherFactory, event
from tests.integration.webhooks.receiving import Receiver, status
from uploadcore.errors import DeliveryError


class Names:
    """A name server that answers as a test tells it, the last answer again and again."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


FORBIDDEN = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.215.14",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_a_name_that_leads_to_an_address_off_the_open_internet_is_refused(
    publisher_for: PublisherFactory, address: str
) -> None:
    publisher = await publisher_for(f"https://hooks.example.com/#secret={SECRET}", resolver=Names([address]))

    with pytest.raises(DeliveryError, match="not on the open internet"):
        await publisher.publish(event())


async def test_one_forbidden_address_among_others_is_enough(publisher_for: PublisherFactory) -> None:
    names = Names(["93.184.215.14", "10.0.0.1"])
    publisher = await publisher_for(f"https://hooks.example.com/#secret={SECRET}", resolver=names)

    with pytest.raises(DeliveryError, match=r"10\.0\.0\.1, which is not on the open internet"):
        await publisher.publish(event())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0x0.0x0.0x1",
        "017700000001",
        "0177.0.0.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::1]",
    ],
)
async def test_however_an_address_is_written_it_is_not_connected_to(
    receiver: Receiver, publisher_for: PublisherFactory, host: str
) -> None:
    publisher = await publisher_for(f"http://{host}:{receiver.port}/#secret={SECRET}&allow_http=true")

    with pytest.raises(DeliveryError):
        await publisher.publish(event())

    assert receiver.connections == 0


async def test_a_network_that_is_allowed_is_and_no_other(receiver: Receiver, publisher_for: PublisherFactory) -> None:
    url = f"http://hooks.example.com:{receiver.port}/#secret={SECRET}&allow_http=true&allow=127.0.0.0/30,10.1.0.0/16"

    await (await publisher_for(url, resolver=Names(["127.0.0.1"]))).publish(event())
    for other in ("127.0.0.4", "10.2.0.1", "169.254.169.254"):
        with pytest.raises(DeliveryError, match="not on the open internet"):
            await (await publisher_for(url, resolver=Names([other]))).publish(event())

    assert len(receiver.received) == 1
    assert receiver.received[0].headers["host"] == f"hooks.example.com:{receiver.port}"


async def test_the_address_that_was_checked_is_the_one_connected_to(
    receiver: Receiver, publisher_for: PublisherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a name server that answers with a good address when it is checked, and with a bad one when it is connected to."""
    asked: list[str] = []
    ask = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "hooks.example.com":
            return ask(host, port, *arguments, **options)
        asked.append(host)
        good = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return ask(good, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    publisher = await publisher_for(
        f"http://hooks.example.com:{receiver.port}/#secret={SECRET}&allow_http=true&allow=127.0.0.1"
    )
    receiver.answer = status(204, "Connection: close")

    await publisher.publish(event(1))
    with pytest.raises(DeliveryError, match=r"127\.0\.0\.2, which is not on the open internet"):
        await publisher.publish(event(2))

    assert len(receiver.received) == 1
    assert asked == ["hooks.example.com"] * 2, "once per connection"


async def test_a_redirect_to_a_private_address_leads_nowhere(
    receiver: Receiver, publisher_for: PublisherFactory
) -> None:
    names = Names(["127.0.0.1"])
    publisher = await publisher_for(
        f"http://hooks.example.com:{receiver.port}/#secret={SECRET}&allow_http=true&allow=127.0.0.1", resolver=names
    )
    receiver.answer = status(307, "Location: http://169.254.169.254/latest/meta-data/")

    with pytest.raises(DeliveryError, match="answers 307"):
        await publisher.publish(event())

    assert names.asked == ["hooks.example.com"]


async def test_the_next_address_is_tried_when_one_takes_no_connection(
    receiver: Receiver, publisher_for: PublisherFactory
) -> None:
    publisher = await publisher_for(
        f"http://hooks.example.com:{receiver.port}/#secret={SECRET}&allow_http=true&allow=127.0.0.0/8",
        resolver=Names(["127.0.0.2", "127.0.0.1"]),
    )

    await publisher.publish(event())

    assert len(receiver.received) == 1


async def test_a_name_that_leads_nowhere_is_no_delivery(publisher_for: PublisherFactory) -> None:
    for url, options in (
        (f"https://no-such-host.invalid/#secret={SECRET}", {}),
        (f"https://hooks.example.com/#secret={SECRET}", {"resolver": Names([])}),
    ):
        publisher = await publisher_for(url, **options)
        with pytest.raises(DeliveryError, match=r"leads nowhere|no address"):
            await publisher.publish(event())


async def test_a_name_server_that_is_silent_keeps_a_delivery_no_longer_than_it_may_take(
    publisher_for: PublisherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr("uploadcore_webhooks.publisher.CONNECT_TIMEOUT", 0.05)
    publisher = await publisher_for(f"https://hooks.example.com/#secret={SECRET}", resolver=silent)

    with pytest.raises(DeliveryError, match="no name server answered in time"):
        await publisher.publish(event())
