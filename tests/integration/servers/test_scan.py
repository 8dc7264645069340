"""The scan that every run ends with finds what is planted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.servers.choice import Servers
from tests.servers.postgres import PostgresServer
from tests.servers.process import ServerError
from tests.servers.redis import RedisServer
from tests.servers.scan import CHUNK, Scan

ROOT = Path(__file__).parents[3]
KEY = "another secret of " + "the tests, 32 bytes or more"  # in two pieces: a traceback shows the line

SECRETS = {
    "S3's signature": "GET /b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=" + 64 * "0",
    "S3's signature, in a query": "redirect=%2Fb%2Fk%3Fx-amz-signature%3D" + 64 * "0",
    "S3's credential": "X-Amz-Credential=AKIA%2F20260101%2Fus-east-1%2Fs3%2Faws4_request",
    "S3's session token": "X-Amz-Security-Token=FwoGZXIvYXdzE",
    "S3's header": "Authorization: AWS4-HMAC-SHA256 Credential=x, SignedHeaders=host, Signature=" + 64 * "a",
    "signature of the filesystem store": "PUT /data/x?expires=1&signature=Zm9v",
    "bearer token": "authorization: Bearer abcdefgh",
    "JWT": "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJlb2Zp",
    "secret of a webhook": "https://a.example/hooks#secret=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "signature of a webhook": "webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    "key": KEY,
}
HARMLESS = (
    "upload 0197 completed, signature checked",
    "invalid bearer token",
    '{"event": "request", "route": "/v1/uploads/{upload_id}", "status": 200}',
    "X-Amz-Signature is missing",
)


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_and_not_told(kind: str) -> None:
    scan = Scan()

    scan.look("a log", SECRETS[kind].encode())

    [finding] = scan.findings
    assert finding.startswith("a log: ")
    assert len(finding) <= len("a log: ") + 13


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_not_found(text: str) -> None:
    scan = Scan()

    scan.look("a log", text.encode())

    assert scan.findings == []


def test_a_secret_between_two_chunks_of_a_file_is_found(tmp_path: Path) -> None:
    secret = SECRETS["JWT"].encode()
    (tmp_path / "big.bin").write_bytes(
        b" " * (CHUNK - len(secret) // 2) + secret
    )  # a name that the run's own scan passes over
    scan = Scan()

    scan.files("files", [tmp_path / "big.bin"])

    assert len(scan.findings) == 1


def test_a_key_that_the_environment_gave_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Scan(secrets={b"wJalrXUtnFEMI"})

    scan.look("a log", b"secret=wJalrXUtnFEMI")

    assert len(scan.findings) == 1


@pytest.fixture(scope="module")
def own_servers() -> Iterator[Servers]:
    """Not those of this run, which must stay clean."""
    servers = Servers()
    servers.running = {"postgres": PostgresServer(), "redis": RedisServer(keep_commands=True)}
    for server in servers.running.values():
        server.start()
    yield servers
    servers.stop()


@pytest.mark.parametrize("kind", SECRETS)
async def test_a_secret_in_a_row_is_found_even_as_bytes(own_servers: Servers, kind: str) -> None:
    postgres = own_servers.running["postgres"]
    connection = await asyncpg.connect(postgres.new_database())
    await connection.execute("CREATE TABLE kept (id int, content bytea)")
    await connection.execute("INSERT INTO kept VALUES (1, $1)", SECRETS[kind].encode())
    await connection.close()
    scan = Scan()

    await asyncio.to_thread(scan.servers, own_servers)
    postgres.databases.clear()

    assert [finding.partition(": ")[0] for finding in scan.findings] == ["table public.kept"]


def test_a_secret_that_redis_held_for_a_moment_is_found(own_servers: Servers) -> None:
    redis: RedisServer = own_servers.running["redis"]
    with contextlib.closing(redis.client()) as client:
        client.set("key", SECRETS["JWT"], px=1)
    redis.flush()
    redis.restart()
    scan = Scan()

    scan.servers(own_servers)

    assert len(scan.findings) == 1


LEAKS = """
import logging, sys

SECRET = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIi" + "OiJ4In0.c2lnbmF0dXJlb2Zp"

def test_in_a_log():
    logging.getLogger("x").warning(SECRET)

def test_on_standard_error():
    print(SECRET, file=sys.stderr)

def test_in_a_file(tmp_path):
    (tmp_path / "service.log").write_text(SECRET)

def test_in_redis(redis_server):
    client = redis_server.client()
    client.set("k", SECRET, px=1)
    client.close()

def test_in_an_answer():
    print(SECRET)
"""


def test_a_run_that_leaks_fails_though_its_tests_pass() -> None:
    # Outside of this run's own folder.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pytest.ini").write_text("[pytest]\n")
        Path(folder, "test_leak.py").write_text(LEAKS)
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "tests.servers.plugin",
                "--basetemp",
                f"{folder}/temp",
                "test_leak.py",
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    assert "5 passed" in ran.stdout, ran.stdout
    assert ran.returncode == 1
    assert "scan for secrets: 4 found in" in ran.stdout
    for where in ("Captured log call of", "Captured stderr call of", "service.log: ", ".aof: "):
        assert where in ran.stdout


def test_a_server_that_does_not_start_says_so_to_everybody() -> None:
    servers = Servers()
    servers._known["s3"] = {"s3-broken": lambda: RedisServer("--no-such-option")}

    with pytest.raises(ServerError, match="no-such-option"):
        servers.get("s3", "s3-broken")
    with pytest.raises(ServerError, match="s3-broken did not start"):
        servers.get("s3", "s3-broken")


def test_servers_that_tests_left_hanging_or_dead_are_scanned_all_the_same() -> None:
    servers = Servers()
    servers.running = {"hanging": RedisServer(keep_commands=True), "dead": RedisServer(keep_commands=True)}
    for server in servers.running.values():
        server.start()
        with contextlib.closing(server.client()) as client:
            client.set("key", SECRETS["JWT"])
    servers.running["hanging"].pause()
    servers.running["dead"].kill()
    scan = Scan()

    scan.servers(servers)
    servers.stop()

    assert len([finding for finding in scan.findings if ".aof: " in finding]) == 2
    assert scan.read["keys in Redis"] == 1
