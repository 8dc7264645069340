"""Real processes: the service as `uploadcore serve` runs it, and the client as `uploadcore upload` does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.servers.process import free_port

COMMAND = (sys.executable, "-m", "uploadcore_cli.main")
START_TIMEOUT = 30.0
"""Seconds a service may take to answer."""


class Service:
    """One service on loopback, with its data below `folder`; may be killed and started again on the same port."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = folder / "data"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("UPLOADCORE_")},
            "UPLOADCORE_DATA_DIR": str(self.data_dir),
            "UPLOADCORE_PORT": str(self.port),
            "UPLOADCORE_URL": self.url,
            "UPLOADCORE_STATE_DIR": str(folder / "state"),
            "UPLOADCORE_DRAIN_DELAY": "0",
            "UPLOADCORE_LOG_LEVEL": "warning",
            **settings,
        }
        self.log = folder / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve"], env=self.environment, stdout=log, stderr=log, cwd=self.folder
            )
        wait_until(self.is_ready, START_TIMEOUT, f"the service does not get ready, see {self.log}")

    def is_ready(self) -> bool:
        """Whether it answers that it is ready."""
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"the service ended: {self.log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5) as answer:
                status: int = answer.status
                return status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)

    def peak_memory(self) -> int:
        """Bytes of its largest resident set so far."""
        assert self.process is not None
        return peak_memory(self.process.pid)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request to the API; the answer's JSON, or `None` where there is none."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={} if body is None else {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def client(self, *arguments: str | Path, wait: bool = True) -> subprocess.Popen[str]:
        """Run `uploadcore …` against it."""
        running = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )
        if wait:
            running.wait()
        return running

    def upload(self, file: Path, *options: str) -> dict[str, Any]:
        """Upload to the end; what `--json` printed."""
        ran = self.client("upload", file, "--json", *options, wait=False)
        out, err = ran.communicate(timeout=1_800)
        if ran.returncode != 0:
            raise RuntimeError(f"upload ended with {ran.returncode}: {err[-2000:]}")
        printed: dict[str, Any] = json.loads(out.splitlines()[-1])
        return printed

    def open_uploads(self) -> Sequence[str]:
        """Ids of uploads that are still open."""
        return [one["id"] for one in self.call("GET", "/v1/uploads?state=uploading&limit=1000")["uploads"]]


@contextlib.contextmanager
def running(service: Service) -> Iterator[Service]:
    """A service while the block runs."""
    service.start()
    try:
        yield service
    finally:
        service.kill()


def wait_until(condition: Any, timeout: float, complaint: str) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(complaint)
        time.sleep(0.02)


def peak_memory(pid: int) -> int:
    """Bytes of a process's largest resident set so far (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no VmHWM for process {pid}")
