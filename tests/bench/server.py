"""Start a uvicorn process for a benchmark, on one core where the system lets us choose, and wait until it listens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def process(command: list[str], port: int, *, core: int | None, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server while the block runs."""

    running = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL)
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(running.pid, {core})
    try:
        wait_for(port, running)
        yield
    finally:
        running.terminate()
        running.wait(timeout=30)


def wait_for(port: int, running: subprocess.Popen[bytes]) -> None:
    """Until somebody listens on the port."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if running.poll() is not None:
            raise RuntimeError(f"the server ended with {running.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nobody listens on port {port}")


def uvicorn(app: str, port: int) -> list[str]:
    """The command that serves `app` as the service itself is served: uvloop, httptools, no access log."""
    options = [
        "--port",
        str(port),
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--no-access-log",
        "--log-level",
        "warning",
    ]
    return [sys.executable, "-m", "uvicorn", app, *options]
