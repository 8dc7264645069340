"""A server as a process of its own that ends with us, however we end, and takes its folder with it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")
MEMORY = Path("/dev/shm")
"""A filesystem in memory, where there is one: what the tests keep needs to outlive nobody."""
START_TIMEOUT = 60.0
"""Seconds a server may take to answer, on a machine that is busy with other things."""
STOP_TIMEOUT = 20.0
"""Seconds until a server that was told to end is gone: longer than its guard waits before it kills."""
PORTS = range(16_384, 32_768)
"""Below those that Linux, macOS and IANA give to whoever asks for any."""
POLL = 0.02
"""Seconds between two looks."""


class ServerError(Exception):
    """A server does not start, or ended when nobody told it to."""


def new_folder(name: str) -> Path:
    """Make a folder for a server's files, in memory where that can be had. Its path is short: a socket's has ~100 characters."""
    parent = MEMORY if os.access(MEMORY, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix=f"uploadcore-{name}-", dir=parent))


def free_port() -> int:
    """A port of loopback nobody listens on now. Nor does a connection take it before you do: the system gives them higher ones."""
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class ServerProcess:
    """One server process below a guard of its own; what it writes goes to a log."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: int | None = None,
    ) -> None:
        """`folder` is removed when the server stops; its log is in there. `user`: the one to run as, where we are root."""
        self.command = [str(word) for word in command]
        self.folder = folder
        self.log = folder / "server.log"
        self.stop_signal = stop_signal
        self.user = user
        self.pid = 0
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self, is_ready: Callable[[], bool]) -> None:
        """Start it, and wait until it is ready.

        Raises:
            ServerError: It ended, or is not ready within a minute. The message ends with the end of its log.
        """
        with self.log.open("ab") as log:
            user = "-" if self.user is None else str(self.user)
            self._guard = subprocess.Popen(
                [sys.executable, "-I", str(GUARD), str(int(self.stop_signal)), user, str(self.folder), *self.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline() or 0)
        end = time.monotonic() + START_TIMEOUT
        while not is_ready():
            if not self.is_running or time.monotonic() > end:
                what = "does not get ready" if self.is_running else "ended"
                complaint = f"{Path(self.command[0]).name} {what}: {self.log_text()[-2000:]}"
                self.stop()
                raise ServerError(complaint)
            time.sleep(POLL)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._guard is not None and self._guard.poll() is None

    def log_text(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def pause(self) -> None:
        """Let it hang: connections are accepted, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def awake(self) -> bool:
        """Whether it runs; from now on, where a test that failed left it hanging."""
        if self.is_running:
            self.resume()
        return self.is_running

    def kill(self) -> None:
        """`kill -9`. Its folder stays, and it may be started again."""
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)
        self._forget(wait=True)

    def stop(self) -> None:
        """End it and remove its folder. May be called twice."""
        self._forget()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self, *, wait: bool = False) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None
        assert guard.stdout is not None
        if wait:  # before its input ends: then it would take the folder too
            guard.wait(STOP_TIMEOUT)
        guard.stdin.close()
        guard.stdout.close()
        guard.wait(STOP_TIMEOUT)
