"""Rule 20, on a real server: SIGTERM fails readiness, serving goes on with `Connection: close`, what is in flight ends, exit 0."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.http.process import Served, service_process
from uploadcore_http.server import IN_FLIGHT, KEEP_ALIVE

INITIATE = {"filename": "a.bin", "size": 5}
UNENDING = "300"
"""Seconds: no test waits for the end of such a delay, however slow the machine is."""


def answered(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer from a connection."""
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    headers: dict[str, str] = {}
    while (line := file.readline().strip()) != b"":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, file.read(int(headers.get("content-length", "0")))


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def wait_for_status(served: Served, status: int) -> None:
    """Until `/health/ready` answers so, asked on new connections."""
    wait_until(lambda: httpx.get(f"{served.url}/health/ready").status_code == status)


def test_sigterm_fails_readiness_first_and_goes_on_serving(tmp_path: Path) -> None:
    with service_process(tmp_path, drain_delay=UNENDING) as served:
        with served.connect() as kept:
            kept.sendall(request("GET", "/v1/uploads"))
            assert answered(kept)[1].get("connection") is None

            served.process.send_signal(signal.SIGTERM)
            wait_for_status(served, 503)

            kept.sendall(request("GET", "/v1/uploads"))
            status, headers, _ = answered(kept)
            assert (status, headers["connection"]) == (200, "close")
            assert kept.recv(1) == b"", "the connection is closed after the answer"
        created = httpx.post(f"{served.url}/v1/uploads", json=INITIATE)
        assert (created.status_code, created.headers["connection"]) == (201, "close")
    assert "Traceback" not in served.log.read_text()


def test_the_process_ends_by_itself_when_the_delay_is_over(tmp_path: Path) -> None:
    with service_process(tmp_path, drain_delay="1") as served, served.connect() as kept:
        kept.sendall(request("POST", "/v1/uploads", json.dumps(INITIATE).encode()))
        assert answered(kept)[0] == 201

        assert served.stop() == 0
    assert "Traceback" not in served.log.read_text()


def test_no_request_fails_while_load_balancers_have_not_noticed_yet(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    answers: list[int] = []
    noticed = threading.Event()

    def load(url: str) -> None:
        try:
            with httpx.Client(base_url=url, timeout=30) as client:
                while not noticed.is_set():
                    answers.append(client.post("/v1/uploads", json={**INITIATE, "sign": 1}).status_code)
        except httpx.HTTPError as exc:
            failures.append(exc)

    with service_process(tmp_path, drain_delay=UNENDING, log_level="warning") as served:
        threads = [threading.Thread(target=load, args=(served.url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) > 20)
        served.process.send_signal(signal.SIGTERM)
        wait_for_status(served, 503)
        before = len(answers)
        wait_until(lambda: len(answers) > before + 100 or bool(failures))
        noticed.set()
        for thread in threads:
            thread.join()

    assert failures == []
    assert set(answers) == {201}


def test_a_request_in_flight_ends_before_the_process_does(tmp_path: Path) -> None:
    body = json.dumps(INITIATE).encode()
    with service_process(tmp_path) as served, served.connect() as slow:
        slow.sendall(request("POST", "/v1/uploads", body)[: -len(body)])
        wait_until_in_flight(served)
        served.process.send_signal(signal.SIGTERM)
        wait_until_refused(served)

        slow.sendall(body)

        assert answered(slow)[0] == 201
        assert served.process.wait(timeout=30) == 0


def test_an_idle_connection_does_not_hold_the_process(tmp_path: Path) -> None:
    with service_process(tmp_path) as served, served.connect() as idle:
        idle.sendall(request("GET", "/health/live"))
        answered(idle)
        begun = time.monotonic()

        assert served.stop() == 0

        assert time.monotonic() - begun < 10


def test_sigint_drains_without_delay(tmp_path: Path) -> None:
    with service_process(tmp_path, drain_delay=UNENDING) as served:
        assert served.stop(signal.SIGINT, timeout=10) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(tmp_path: Path, second: signal.Signals) -> None:
    with service_process(tmp_path, drain_delay=UNENDING) as served, served.connect() as stuck:
        stuck.sendall(request("POST", "/v1/uploads", b"{}")[:-2])
        wait_until_in_flight(served)
        served.process.send_signal(signal.SIGTERM)
        wait_for_status(served, 503)

        assert served.stop(second, timeout=10) == 128 + second


def test_keep_alive_outlasts_a_load_balancers(tmp_path: Path) -> None:
    assert KEEP_ALIVE > 60  # AWS ALB's idle timeout
    assert IN_FLIGHT == 25
    with service_process(tmp_path) as served, served.connect() as kept:
        for _ in range(3):
            kept.sendall(request("GET", "/health/live"))
            assert answered(kept)[0] == 200


def wait_until(condition: Callable[[], bool], *, within: float = 30) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def wait_until_in_flight(served: Served) -> None:
    """Until a request is being served, besides the one that asks."""
    wait_until(lambda: "uploadcore_http_requests_in_flight 2.0" in httpx.get(f"{served.url}/metrics").text)


def wait_until_refused(served: Served) -> None:
    """Until it takes no new connection."""

    def refuses() -> bool:
        try:
            with served.connect():
                return False
        except OSError:
            return True

    wait_until(refuses)


def raw(served: Served, data: bytes) -> tuple[int, dict[str, str], Any]:
    with served.connect() as connection:
        connection.sendall(data)
        status, headers, body = answered(connection)
        return status, headers, json.loads(body)


def test_a_real_server_bounds_bodies_whether_their_length_is_told_or_not(tmp_path: Path) -> None:
    with service_process(tmp_path) as served:
        declared = request("POST", "/v1/uploads", b" " * 200_000)
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        head = b"POST /v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"

        for sent in (declared, head + chunk * 3 + b"0\r\n\r\n"):
            status, headers, problem = raw(served, sent)
            assert (status, problem["code"], headers["connection"]) == (413, "too_large", "close")


def test_a_request_that_is_no_http_is_400(tmp_path: Path) -> None:
    with service_process(tmp_path) as served, served.connect() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert answered(connection)[0] == 400
        assert httpx.get(f"{served.url}/health/live").status_code == 200
