"""Receivers that hang, drip, flood, break, or are not who they say: each costs its own time and nothing else."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.webhooks.conftest import SECRET, PublisherFactory, event
from tests.integration.webhooks.receiving import (
    PATIENCE,
    Answer,
    Receiver,
    dripping,
    endless,
    hang_up,
    nothing,
    receiving,
    sending,
    status,
)
from tests.servers.process import free_port
from uploadcore.diagnosis import Finding, Needs, Verdict
from uploadcore.errors import DeliveryError, InvalidRequestError
from uploadcore.events import Event
from uploadcore_webhooks import WebhookPublisher

OK = b"HTTP/1.1 200 OK\r\n"


def url_of(receiver: Receiver, *options: str) -> str:
    return f"http://127.0.0.1:{receiver.port}/#" + "&".join((f"secret={SECRET}", "allow=127.0.0.1", *options))


async def arrives(publisher: WebhookPublisher, one: Event) -> bool:
    """Whether it does, in the short time that a delivery has here: the machine may be busy with other things."""
    try:
        await publisher.publish(one)
    except DeliveryError:
        return False
    return True


@pytest.mark.parametrize(
    "answer",
    [nothing, dripping(OK, b"x-drop: 1\r\n"), dripping(b"", b"H")],
    ids=["hangs", "drips headers", "drips no HTTP"],
)
async def test_a_delivery_ends_in_time_and_frees_what_it_held(
    receiver: Receiver, publisher_for: PublisherFactory, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_webhooks.publisher.MAX_CONNECTIONS", 1)
    publisher = await publisher_for(url_of(receiver, "timeout=0.2"))
    receiver.answer = answer
    for number in range(3):
        began = time.monotonic()
        with pytest.raises(DeliveryError, match=r"within 0.2 s|no HTTP"):
            await publisher.publish(event(number))
        assert time.monotonic() - began < 5

    receiver.answer = status(204)
    async with asyncio.timeout(PATIENCE):
        while not await arrives(publisher, event(9)):
            pass

    assert receiver.received[-1].headers["webhook-id"] == "upload-9-4"


async def test_deliveries_that_are_given_up_leave_no_connection_behind(
    receiver: Receiver, publisher_for: PublisherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_webhooks.publisher.MAX_CONNECTIONS", 2)
    publisher = await publisher_for(url_of(receiver))
    receiver.answer = nothing
    for _ in range(3):
        begun = len(receiver.received)
        deliveries = [asyncio.create_task(publisher.publish(event(number))) for number in range(20)]
        await receiver.until(begun + 2)
        for delivery in deliveries:
            delivery.cancel()
        outcomes = await asyncio.gather(*deliveries, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)

    receiver.answer = status(204)
    await asyncio.gather(*(publisher.publish(event(number)) for number in range(100, 120)))

    delivered = {got.headers["webhook-id"] for got in receiver.received}
    assert {f"upload-{number}-4" for number in range(100, 120)} <= delivered


@pytest.mark.parametrize("head", [b"Content-Length: 1000000000000\r\n\r\n", b"\r\n"], ids=["told", "not told"])
async def test_of_an_answer_without_end_no_more_is_read_than_is_of_use(
    receiver: Receiver, publisher_for: PublisherFactory, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_webhooks.publisher.ANSWER_TIMEOUT", 60)
    monkeypatch.setattr("uploadcore_webhooks.publisher.MAX_CONNECTIONS", 1)
    publisher = await publisher_for(url_of(receiver))
    receiver.answer = endless(OK + head)

    await publisher.publish(event(1))
    receiver.answer = status(204)
    await publisher.publish(event(2))

    assert [got.headers["webhook-id"] for got in receiver.received] == ["upload-1-4", "upload-2-4"]


@pytest.mark.parametrize(
    "answer",
    [
        dripping(OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
        sending(OK + b"Content-Length: 5\r\n\r\nab"),
        sending(OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
        sending(OK + b"Transfer-Encoding: chunked\r\n\r\nno length\r\n"),
    ],
    ids=["drips", "is cut", "is no gzip", "is no chunk"],
)
async def test_who_says_200_has_it_whatever_becomes_of_the_rest(
    receiver: Receiver, publisher_for: PublisherFactory, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_webhooks.publisher.ANSWER_TIMEOUT", 0.1)
    monkeypatch.setattr("uploadcore_webhooks.publisher.MAX_CONNECTIONS", 1)
    publisher = await publisher_for(url_of(receiver))
    receiver.answer = answer

    await publisher.publish(event(1))
    receiver.answer = status(204)
    await publisher.publish(event(2))

    assert [got.headers["webhook-id"] for got in receiver.received] == ["upload-1-4", "upload-2-4"]


async def test_who_says_200_in_time_has_it_though_the_rest_does_not_end_in_time(
    receiver: Receiver, publisher_for: PublisherFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uploadcore_webhooks.publisher.ANSWER_TIMEOUT", 60.0)
    monkeypatch.setattr("uploadcore_webhooks.publisher.MAX_CONNECTIONS", 1)
    publisher = await publisher_for(url_of(receiver, "timeout=3"))
    receiver.answer = dripping(OK + b"Content-Length: 1000000\r\n\r\n", b"x")

    await publisher.publish(event(1))
    receiver.answer = status(204)
    await publisher.publish(event(2))

    assert [got.headers["webhook-id"] for got in receiver.received] == ["upload-1-4", "upload-2-4"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (hang_up, "no HTTP"),
        (sending(b"SSH-2.0-OpenSSH_9.2 secret of the tests\r\n\r\n"), "no HTTP"),
        (sending(OK + b"x: " + b"y" * 200_000 + b"\r\n\r\n"), "no HTTP"),
        (sending(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), "no HTTP"),
    ],
    ids=["hangs up", "is no HTTP", "floods headers", "switches protocols"],
)
async def test_what_is_no_answer_is_no_delivery_and_is_not_repeated(
    receiver: Receiver, publisher_for: PublisherFactory, answer: Answer, told: str
) -> None:
    publisher = await publisher_for(url_of(receiver))
    receiver.answer = answer

    with pytest.raises(DeliveryError, match=told) as failed:
        await publisher.publish(event())

    assert "secret" not in str(failed.value)


async def test_a_port_where_nobody_listens_is_no_delivery(publisher_for: PublisherFactory) -> None:
    port = free_port()
    publisher = await publisher_for(f"http://127.0.0.1:{port}/#secret={SECRET}&allow=127.0.0.1")

    with pytest.raises(DeliveryError, match=f"http://127.0.0.1:{port} can't be reached"):
        await publisher.publish(event())


# --- TLS ----------------------------------------------------------------------------------------------------------


class Authority:
    """Signs certificates for names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the authority")])
        self.file = folder / "authority.pem"
        self.file.write_bytes(self._signed(self._name, self._key, None, days=1))

    def server_side(self, name: str, *, days: float = 1) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        both = self._folder / f"{name}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        both.write_bytes(private + self._signed(subject, key, name, days=days))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        return context

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, name: str | None, *, days: float) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=name is None, path_length=None), critical=True)
        )
        if name is not None:
            names: list[x509.GeneralName] = [x509.DNSName(name)]
            if name[0].isdigit():
                names = [x509.IPAddress(ipaddress.ip_address(name))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def to_loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


@pytest.fixture
def secure_url(authority: Authority) -> Callable[[Receiver], str]:
    return lambda receiver: (
        f"https://hooks.example.com:{receiver.port}/#secret={SECRET}&allow=127.0.0.1&ca_file={authority.file}"
    )


async def test_the_certificate_is_checked_against_the_name_not_the_address(
    authority: Authority, publisher_for: PublisherFactory, secure_url: Callable[[Receiver], str]
) -> None:
    async with receiving(authority.server_side("hooks.example.com")) as receiver:
        publisher = await publisher_for(secure_url(receiver), resolver=to_loopback)
        await publisher.publish(event())
        assert len(receiver.received) == 1
        await publisher.close()


@pytest.mark.parametrize(
    ("name", "days"),
    [("other.example.com", 1), ("127.0.0.1", 1), ("hooks.example.com", -1)],
    ids=["another name", "the address", "expired"],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio's server forgets connections whose handshake fails
async def test_a_certificate_of_another_name_or_another_time_is_refused(
    authority: Authority, publisher_for: PublisherFactory, secure_url: Callable[[Receiver], str], name: str, days: float
) -> None:
    async with receiving(authority.server_side(name, days=days)) as receiver:
        publisher = await publisher_for(secure_url(receiver), resolver=to_loopback)
        with pytest.raises(DeliveryError, match="certificate verify failed"):
            await publisher.publish(event())
        assert receiver.received == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_an_authority_nobody_named_is_not_trusted(authority: Authority, publisher_for: PublisherFactory) -> None:
    async with receiving(authority.server_side("hooks.example.com")) as receiver:
        publisher = await publisher_for(
            f"https://hooks.example.com:{receiver.port}/#secret={SECRET}&allow=127.0.0.1", resolver=to_loopback
        )
        with pytest.raises(DeliveryError, match="certificate verify failed"):
            await publisher.publish(event())


def test_a_file_of_authorities_that_is_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "no-authority.pem"
    file.write_text("nothing of the kind")

    with pytest.raises(InvalidRequestError, match="ca_file can't be used"):
        WebhookPublisher(f"https://hooks.example.com/#secret={SECRET}&ca_file={file}", source="")


# --- doctor -------------------------------------------------------------------------------------------------------

NEEDS = Needs(key_prefix="uploads", upload_lifetime=timedelta(days=1))


async def found_by(publisher: WebhookPublisher) -> list[Finding]:
    return [finding async for finding in publisher.diagnose(NEEDS, apply=False)]


async def test_the_doctor_connects_and_sends_nothing(
    authority: Authority, publisher_for: PublisherFactory, secure_url: Callable[[Receiver], str], receiver: Receiver
) -> None:
    async with receiving(authority.server_side("hooks.example.com")) as secure:
        for publisher in (
            await publisher_for(secure_url(secure), resolver=to_loopback),
            await publisher_for(url_of(receiver)),
        ):
            [finding] = await found_by(publisher)
            assert finding.verdict is Verdict.OK
        for one in (secure, receiver):  # they hear of a connection a moment after the doctor does
            await one.idle.wait()
        assert (secure.connections, receiver.connections) == (1, 1)
        assert secure.received == receiver.received == []


async def test_the_doctor_says_why_an_address_can_not_be_used(publisher_for: PublisherFactory) -> None:
    port = free_port()
    refused = await publisher_for(f"http://127.0.0.1:{port}/hooks?token=1#secret={SECRET}&allow=127.0.0.1")
    private = await publisher_for(f"http://127.0.0.1:{port}/hooks?token=1#secret={SECRET}")

    for publisher, told in ((refused, "can't be reached"), (private, "allow=127.0.0.1 permits it")):
        [finding] = await found_by(publisher)
        assert finding.verdict is Verdict.FAILED
        assert told in finding.message
        assert "token" not in finding.message + finding.fix
