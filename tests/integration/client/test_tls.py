"""Service and store over TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.client.scripted import Handler, far_end
from uploadcore_client import Client, ServerUnreachableError

Clients = Callable[..., Client]
Blobs = Callable[..., Path]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_it_uploads_and_downloads(
    server_side: ssl.SSLContext, certificate: Path, client_of: Clients, blob: Blobs, tmp_path: Path
) -> None:
    path = blob()
    with far_end(server_side) as far:
        client = client_of(far, tls=ssl.create_default_context(cafile=certificate))

        file = client.upload(path)
        copy = client.download(file.id, tmp_path / "copy")

        assert far.files[file.id] == path.read_bytes() == copy.read_bytes()
        assert len(far.puts) == 6


def test_a_refused_url_is_signed_again(
    server_side: ssl.SSLContext, certificate: Path, client_of: Clients, blob: Blobs
) -> None:
    path = blob()
    with far_end(server_side) as far:

        def refuse(handler: Handler, tries: int) -> bool:
            if tries == 1:
                handler.refuse(403, "AccessDenied")
            return tries == 1

        far.before_part = refuse

        file = client_of(far, tls=ssl.create_default_context(cafile=certificate)).upload(path)

        assert far.files[file.id] == path.read_bytes()


def test_a_certificate_nobody_vouches_for_is_one_clear_error_at_once(
    server_side: ssl.SSLContext, client_of: Clients, blob: Blobs
) -> None:
    with far_end(server_side) as far, pytest.raises(ServerUnreachableError, match="certificate is not trusted"):
        client_of(far).upload(blob())
