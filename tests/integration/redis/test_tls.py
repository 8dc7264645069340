"""TLS: the server's certificate is checked, and the client's is shown. What ends TLS here stands before the server, as is common."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.redis.conftest import HOUR, CacheFactory, Server, until_answered
from tests.integration.redis.topologies import cluster_of_one
from tests.servers.redis import RedisServer


class Certificates:
    """An authority of our own, and what it has signed, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the authority")])
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self._sign(self._name, self._key, authority=True))

    def issue(self, name: str, host: str = "127.0.0.1") -> tuple[Path, Path]:
        """A certificate for a host, by its name or address, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate_file.write_bytes(self._sign(subject, key, host=host))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_file, key_file

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, host: str = "127.0.0.1", authority: bool = False
    ) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@contextlib.asynccontextmanager
async def ending_tls(server: RedisServer, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Ends TLS before a server; gives the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))
        for one in (writer, upstream_writer):
            with contextlib.suppress(OSError):
                await one.wait_closed()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def context_of(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context


async def test_a_server_with_a_certificate_of_the_authority_is_used(
    own_redis: RedisServer, opened: CacheFactory, certificates: Certificates
) -> None:
    async with ending_tls(own_redis, context_of(*certificates.issue("server"))) as port:
        cache = await opened(f"rediss://127.0.0.1:{port}?ca_file={certificates.ca}")
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
        await cache.close()


async def test_many_connections_read_the_authorities_once(
    own_redis: RedisServer, opened: CacheFactory, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def counted(*arguments: Any, **options: Any) -> ssl.SSLContext:
        made.append(make(*arguments, **options))
        return made[-1]

    async with ending_tls(own_redis, context_of(*certificates.issue("server"))) as port:
        monkeypatch.setattr(ssl, "create_default_context", counted)
        url = f"rediss://127.0.0.1:{port}?ca_file={certificates.ca}"
        cache = await opened(url, near_entries=0, max_connections=8)
        answers = await asyncio.gather(*(cache.set_if_newer(str(n), b"1", 1, ttl=HOUR) for n in range(40)))
        assert answers == [True] * 40
        assert Server(own_redis).connections() >= 8
        assert len(made) == 1
        await cache.close()


async def test_a_server_of_an_unknown_authority_or_another_name_is_not_trusted(
    own_redis: RedisServer,
    opened: CacheFactory,
    certificates: Certificates,
    warnings_logged: Callable[[], list[str]],
) -> None:
    async with ending_tls(own_redis, context_of(*certificates.issue("server"))) as port:
        cache = await opened(f"rediss://127.0.0.1:{port}")
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is None
        await cache.close()
    async with ending_tls(own_redis, context_of(*certificates.issue("elsewhere", "127.0.0.2"))) as port:
        cache = await opened(f"rediss://127.0.0.1:{port}?ca_file={certificates.ca}")
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is None
        await cache.close()
    assert "CERTIFICATE_VERIFY_FAILED" in warnings_logged()[0]


@pytest.mark.parametrize("certified", ["redis.test", "127.0.0.1", "else.test"])
async def test_a_certificate_is_held_against_the_name_and_not_what_it_resolves_to(
    own_redis: RedisServer,
    opened: CacheFactory,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    certified: str,
) -> None:
    ask = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **how: ask(host.replace("redis.test", "127.0.0.1"), *rest, **how)
    )
    async with ending_tls(own_redis, context_of(*certificates.issue("server", certified))) as port:
        cache = await opened(f"rediss://redis.test:{port}?ca_file={certificates.ca}")
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is (True if certified == "redis.test" else None)
        await cache.close()


async def test_a_server_that_wants_a_certificate_gets_ours(
    own_redis: RedisServer, opened: CacheFactory, certificates: Certificates
) -> None:
    context = context_of(*certificates.issue("server"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.ca)
    certificate, key = certificates.issue("client")
    async with ending_tls(own_redis, context) as port:
        url = f"rediss://127.0.0.1:{port}?ca_file={certificates.ca}"
        without = await opened(url)
        assert await without.set_if_newer("a", b"1", 1, ttl=HOUR) is None
        await without.close()
        cache = await opened(f"{url}&cert_file={certificate}&key_file={key}")
        assert await cache.set_if_newer("a", b"1", 1, ttl=HOUR) is True
        await cache.close()


async def test_a_cluster_is_reached_with_tls(opened: CacheFactory, certificates: Certificates) -> None:
    with cluster_of_one() as server:
        async with ending_tls(server, context_of(*certificates.issue("server"))) as port:
            # Nodes tell where they are reached: this one tells the port where TLS ends.
            with Server(server).client() as client:
                client.config_set("cluster-announce-port", port)
            cache = await opened(f"rediss+cluster://127.0.0.1:{port}?ca_file={certificates.ca}")
            await until_answered(cache)
            assert await cache.get("again") == b"value of again"
            await cache.close()
