"""Start a uvicorn process for a benchmark, on one core where the system lets us choose, and wait until it listens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.soak.service import wait_until


@contextmanager
def process(command: list[str], port: int, *, core: int | None, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run a server while the block runs; its process id."""
    running = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL)
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(running.pid, {core})
    try:
        wait_until(lambda: listens(port, running), 30, f"nobody listens on port {port}")
        yield running.pid
    finally:
        running.terminate()
        running.wait(timeout=30)


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU a process has used so far (Linux; see proc_pid_stat(5): the 14th and 15th field, after a name that may hold blanks)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def listens(port: int, running: subprocess.Popen[bytes]) -> bool:
    """Whether the server takes connections. Raises if it has ended."""
    if running.poll() is not None:
        raise RuntimeError(f"the server ended with {running.returncode}")
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


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
