"""The client into a sink that discards, against boto3's `upload_file` and against raw `sendfile`; plain HTTP and TLS.

    python -m tests.bench.client

Each run is a process of its own, in turns; seconds and CPU are those of the upload, without the imports. The file is sparse, and read from
the page cache, so what is measured is the client.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.server import process
from tests.servers.process import free_port

SIZE = 2 * 1024**3
PART = 16 * 1024 * 1024
PARALLEL = 4
TURNS = 3


def upload_ours(url: str, file: str, certificate: str) -> None:
    """Our client."""
    from uploadcore_client import Client

    with Client(url, parallel=PARALLEL, tls=_trusting(certificate), state_dir=Path(file).parent / "state") as client:
        client.upload(file, part_size=PART)


def upload_boto3(url: str, file: str, certificate: str) -> None:
    """`upload_file` as everybody calls it, with the same part size and parallelism."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        verify=certificate or None,
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=PARALLEL),
    )
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=PARALLEL)
    client.upload_file(file, "bucket", "key", Config=config)


def upload_sendfile(url: str, file: str, certificate: str) -> None:
    """What the kernel can do: one thread per part, no byte in user space. Plain HTTP only."""
    del certificate
    address = ("127.0.0.1", urlsplit(url).port)

    def send(offsets: range) -> None:
        with open(file, "rb") as source, socket.create_connection(address) as connection:
            for offset in offsets:
                length = min(PART, SIZE - offset)
                connection.sendall(f"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
                sent = 0
                while sent < length:
                    sent += os.sendfile(connection.fileno(), source.fileno(), offset + sent, length - sent)
                connection.recv(65536)

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(send, [range(first * PART, SIZE, PARALLEL * PART) for first in range(PARALLEL)]))


UPLOADERS: dict[str, Callable[[str, str, str], None]] = {
    "ours": upload_ours,
    "boto3": upload_boto3,
    "sendfile": upload_sendfile,
}


def measured(name: str, url: str, file: str, certificate: str) -> tuple[float, float]:
    """Seconds and CPU seconds of one upload, in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.client", name, url, file, certificate]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    wall, cpu = json.loads(ran.stdout.splitlines()[-1])
    return wall, cpu


def _trusting(certificate: str) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=certificate) if certificate else None


def _certificate(folder: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 and its key, for an hour."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sink")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))
    return str(folder / "cert.pem"), str(folder / "key.pem")


def main(turns: int = TURNS) -> list[str]:
    """Run; return the lines to print."""
    lines = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "blob"
        with file.open("wb") as blob:
            blob.truncate(SIZE)
        certificate, key = _certificate(folder)
        for scheme, names in (("http", ("ours", "boto3", "sendfile")), ("https", ("ours", "boto3"))):
            port = free_port()
            options = [] if scheme == "http" else [certificate, key]
            command = [sys.executable, "-m", "tests.bench.sink", str(port), *options]
            with process(command, port, core=None):
                url = f"{scheme}://127.0.0.1:{port}"
                trusted = certificate if scheme == "https" else ""
                runs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
                for _ in range(turns):
                    for name in names:
                        runs[name].append(measured(name, url, str(file), trusted))
            lines += _compared(scheme, runs)
    return lines


def _compared(scheme: str, runs: dict[str, list[tuple[float, float]]]) -> list[str]:
    gigabytes = SIZE / 1e9
    lines = []
    for other in [name for name in runs if name != "ours"]:
        faster = statistics.median(b[0] / a[0] for a, b in zip(runs["ours"], runs[other], strict=True))
        cpu = statistics.median(a[1] / b[1] for a, b in zip(runs["ours"], runs[other], strict=True))
        ours, theirs = (statistics.median(run[0] for run in runs[name]) for name in ("ours", other))
        target = {("http", "boto3"): " (target 4)", ("https", "boto3"): " (target 1.8 at 0.45)"}.get(
            (scheme, other), ""
        )
        lines.append(
            f"client_vs_{other}_{scheme} {faster:.2f} x its speed at {cpu:.2f} x its CPU per GB{target}; "
            f"{gigabytes / ours:.2f} against {gigabytes / theirs:.2f} GB/s"
        )
    return lines


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("\n".join(main()))
    else:
        name, url, file, certificate = sys.argv[1:]
        if name == "boto3":
            import boto3.s3.transfer  # noqa: F401 - imports are not measured
        elif name == "ours":
            import uploadcore_client  # noqa: F401
        begun, used = time.perf_counter(), time.process_time()
        UPLOADERS[name](url, file, certificate)
        print(json.dumps([time.perf_counter() - begun, time.process_time() - used]))
