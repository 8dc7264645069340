"""The service as a process of its own, for what only a real server shows: signals, connections, its log."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY = "uploadcore is serving on "


@dataclass
class Served:
    """A running service."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(self.address, timeout=30)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = 40) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=timeout)


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings and no others of ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UPLOADCORE_")}
    return {**clean, **{f"UPLOADCORE_{name.upper()}": value for name, value in settings.items()}}


@contextmanager
def service_process(folder: Path, **settings: str) -> Iterator[Served]:
    """A service on a free port of loopback while the block runs, its data and its log below `folder`."""
    log = folder / "service.log"
    defaults = {"port": "0", "data_dir": str(folder / "data"), "drain_delay": "0", "log_format": "json"}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "uploadcore_http"],
            env=environment(**{**defaults, **settings}),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith(READY):
            raise RuntimeError(f"the service did not start: {log.read_text()[-2000:]}")
        yield Served(process, line.removeprefix(READY).strip(), log)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
