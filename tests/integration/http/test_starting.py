"""Starting: one clear line and status 2 for what can't be, one line on stdout when it serves."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.integration.http.process import environment, service_process
from tests.integration.http.service import KEY, token


def start(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Start a service that does not get far."""
    return subprocess.run(
        [sys.executable, "-m", "uploadcore_http"],
        env=environment(**{"data_dir": str(folder / "data"), "port": "0", **settings}),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"host": "0.0.0.0"}, "no authentication is configured"),
        ({"host": "::"}, "no authentication is configured"),
        ({"host": "192.0.2.1", "auth_jwt_key": KEY}, "can't listen on 192.0.2.1"),
        ({"host": "no.such.host.invalid", "auth_jwt_key": KEY}, "is no address of this machine"),
        ({"storage": "gopher://x"}, "UPLOADCORE_STORAGE: nothing installed understands gopher://"),
        ({"database": "nothing"}, "UPLOADCORE_DATABASE: nothing installed understands a value without a scheme"),
        ({"port": "eighty"}, "UPLOADCORE_PORT: "),
        ({"auth_jwt_key": "short"}, "UPLOADCORE_AUTH_JWT_KEY: has at least 32 bytes"),
        ({"data_dir": "/proc/nowhere"}, "can't start: "),
    ],
)
def test_what_can_not_start_says_why_in_one_line(tmp_path: Path, settings: dict[str, str], complaint: str) -> None:
    ran = start(tmp_path, **settings)

    assert ran.returncode == 2
    assert ran.stdout == ""
    assert complaint in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("uploadcore: ")


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = start(tmp_path, port=str(taken.getsockname()[1]))

    assert ran.returncode == 2
    assert "Address already in use" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_one_line_on_stdout_says_where_it_serves(tmp_path: Path) -> None:
    with service_process(tmp_path) as served:
        assert httpx.get(f"{served.url}/health/live").json() == {"status": "alive"}
        assert served.stop() == 0
        assert served.process.stdout is not None
        assert served.process.stdout.read() == ""


FROZEN = """
import gc, io, os, signal
from uploadcore_app import load_settings
from uploadcore_http.server import serve

class Announced(io.StringIO):
    def write(self, line):
        print(gc.get_freeze_count(), len(gc.get_objects()))
        os.kill(os.getpid(), signal.SIGINT)

serve(load_settings(), announce=Announced())
"""


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_line_that_nobody_can_be_told_keeps_nobody_from_starting(tmp_path: Path, command: str) -> None:
    log = tmp_path / "service.log"
    given = {"data_dir": str(tmp_path / "data"), "port": "0", "drain_delay": "0", "log_format": "json"}
    with Path("/dev/full").open("w") as full, log.open("w") as stderr:  # a disk without room
        process = subprocess.Popen(
            [sys.executable, "-m", "uploadcore_cli.main", command],
            env=environment(**given),
            stdout=full,
            stderr=stderr,
            cwd=tmp_path,
        )
    try:
        end = time.monotonic() + 60
        while "could not be said" not in log.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.terminate()
        status = process.wait(timeout=40)
    finally:
        process.kill()
        process.wait()

    assert status == 0
    assert "No space left on device" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_what_was_made_to_serve_is_no_matter_for_the_garbage_collector(tmp_path: Path) -> None:
    settings = environment(data_dir=str(tmp_path / "data"), port="0")
    ran = subprocess.run(
        [sys.executable, "-c", FROZEN],
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=True,
    )
    frozen, collected = map(int, ran.stdout.split())
    assert frozen > 100_000
    assert collected < 1_000


def test_signed_urls_lead_to_the_port_that_was_taken(tmp_path: Path) -> None:
    with service_process(tmp_path) as served:
        upload = httpx.post(f"{served.url}/v1/uploads", json={"filename": "a", "size": 3, "sign": 1}).json()
        [part] = upload["parts"]

        assert part["url"].startswith(f"{served.url}/data/")
        sent = httpx.request(part["method"], part["url"], headers=part["headers"], content=b"abc")
        assert sent.status_code == 200
        assert sent.headers["x-request-id"]


def test_a_misspelled_variable_is_named_in_the_log(tmp_path: Path) -> None:
    with service_process(tmp_path, storge="file:///elsewhere") as served:
        assert served.stop() == 0

    assert "UPLOADCORE_STORGE is no setting" in served.log.read_text()


def test_with_authentication_it_listens_everywhere(tmp_path: Path) -> None:
    with service_process(tmp_path, host="0.0.0.0", auth_jwt_key=KEY) as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")

        assert httpx.get(f"{url}/v1/uploads").status_code == 401
        answer = httpx.get(f"{url}/v1/uploads", headers={"authorization": f"Bearer {token()}"})
        assert answer.status_code == 200
