"""Rule 19: a service whose database is away when it is started is alive, not ready, and becomes ready; it does not end for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.http.process import READY, environment
from tests.servers.postgres import PostgresServer
from tests.servers.process import free_port

INITIATE = {"filename": "a.bin", "size": 5}


@pytest.fixture(scope="module")
def frail() -> Iterator[PostgresServer]:
    """A server of our own: others would miss it."""
    server = PostgresServer(durable=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(frail: PostgresServer, tmp_path: Path) -> str:
    """Names one with a schema."""
    url = frail.new_database()
    command = [str(Path(sys.executable).with_name("uploadcore")), "migrate"]
    subprocess.run(command, env=environment(database=url), check=True, capture_output=True, cwd=tmp_path)
    return url


@contextmanager
def started(folder: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A service that may not get ready, and a client of it."""
    port = str(free_port())
    defaults = {"port": port, "data_dir": str(folder / "data"), "drain_delay": "30", "log_format": "json"}
    with (folder / "service.log").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "uploadcore_http"],
            env=environment(**{**defaults, **settings}),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
            yield process, api
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def is_alive(api: httpx.Client) -> bool:
    try:
        return api.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


def test_it_waits_for_its_database_alive_and_not_ready(frail: PostgresServer, database: str, tmp_path: Path) -> None:
    frail.kill()
    with started(tmp_path, database=database) as (process, api):
        wait_until(lambda: is_alive(api))

        ready = api.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "starting")
        assert ready.json()["checks"]["database"] == "unavailable"
        assert "uploadcore_http_requests_in_flight" in api.get("/metrics").text
        refused = api.post("/v1/uploads", json=INITIATE)
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        assert refused.headers["retry-after"]

        frail.restart()

        wait_until(lambda: api.get("/health/ready").status_code == 200)
        assert api.post("/v1/uploads", json=INITIATE).status_code == 201
        assert process.stdout is not None
        assert process.stdout.readline().startswith(READY), "said once it is true"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_told_to_end_while_it_waits_it_ends_at_once(frail: PostgresServer, database: str, tmp_path: Path) -> None:
    frail.kill()
    try:
        with started(tmp_path, database=database) as (process, api):
            wait_until(lambda: is_alive(api))
            process.send_signal(signal.SIGTERM)

            assert process.wait(10) == 0, "nobody sends anything here: no delay"
    finally:
        frail.restart()
    assert "Traceback" not in (tmp_path / "service.log").read_text()


def test_told_to_end_while_it_starts_it_ends_at_once(frail: PostgresServer, database: str, tmp_path: Path) -> None:
    frail.pause()
    try:
        with started(tmp_path, database=database, log_level="debug") as (process, api):
            wait_until(lambda: os.path.exists(f"/proc/{process.pid}") and _catches_sigterm(process.pid))
            process.send_signal(signal.SIGTERM)

            assert process.wait(10) == 0
            assert not is_alive(api)
    finally:
        frail.resume()


def _catches_sigterm(pid: int) -> bool:
    """Whether it has got so far that SIGTERM is its own to handle."""
    [caught] = [line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigCgt" in line]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_database_that_can_be_put_right_is_one_line_and_status_2(frail: PostgresServer, tmp_path: Path) -> None:
    empty = frail.new_database()
    with started(tmp_path, database=empty) as (process, _):
        assert process.wait(60) == 2
    log = (tmp_path / "service.log").read_text()
    assert "run 'uploadcore migrate'" in log
    assert "Traceback" not in log


def test_a_running_service_answers_while_its_database_is_away_and_goes_on(
    frail: PostgresServer, database: str, tmp_path: Path
) -> None:
    with started(tmp_path, database=database) as (process, api):
        wait_until(lambda: is_alive(api) and api.get("/health/ready").status_code == 200)
        frail.kill()
        began = time.monotonic()
        for _ in range(5):
            refused = api.post("/v1/uploads", json=INITIATE)
            assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        assert time.monotonic() - began < 10
        assert api.get("/health/ready").status_code == 200, "as ready as any other instance"
        frail.restart()

        wait_until(lambda: api.post("/v1/uploads", json=INITIATE).status_code == 201)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
