"""Several instances of the service, real processes, behind HAProxy."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.servers.process import ServerError, ServerProcess, free_port, new_folder
from tests.servers.scan import Scan
from tests.soak.service import COMMAND

__all__ = ["Balancer", "Fleet", "Instance", "until"]

START_TIMEOUT = 120.0
STOP_TIMEOUT = 45.0
POLL = 0.05
HEALTH_INTERVAL = 200
"""Milliseconds between two looks of the balancer at an instance's readiness."""
SECRETS = ("AWS_SECRET_ACCESS_KEY", "UPLOADCORE_AUTH_JWT_KEY")
"""Settings that no log may have, beside what a scan knows by itself."""

CONFIGURATION = """
global
    maxconn 4000
    log stderr format raw local0 err
    stats socket {socket} level user
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout queue 5s
    timeout check 3s
    retries 0
    option httpchk
    http-check connect
    http-check send meth GET uri /health/ready hdr Host 127.0.0.1
    http-check expect status 200
frontend clients
    bind 127.0.0.1:{port}
    default_backend instances
backend instances
    balance roundrobin
    default-server check inter {interval} fastinter {interval} downinter {interval} fall 2 rise 1
{servers}
"""


async def until(condition: Callable[[], bool], within: float, complaint: str, *, told: Callable[[], str] = str) -> None:
    """Look again and again until it holds, for `within` seconds; then complain, with what is told by then."""
    end = asyncio.get_running_loop().time() + within
    while not condition():
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"{complaint} {told()[-2000:]}")
        await asyncio.sleep(POLL)


class Instance:
    """One `uploadcore serve`. May be killed, paused, and started again on the same port.

    Attributes:
        name: What proxies know it as.
        url: Its own address, past the balancer.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("UPLOADCORE_", "AWS_"))},
            **settings,
            "UPLOADCORE_PORT": str(self.port),
            "UPLOADCORE_DATA_DIR": str(folder / f"{name}-data"),
        }
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, and wait for nothing. It ends with us, however we end."""
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *COMMAND, "serve"],
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    async def ready(self) -> None:
        """Wait until it is ready."""
        await until(self.is_ready, START_TIMEOUT, f"{self.name} does not get ready:", told=self.log_text)

    def is_ready(self) -> bool:
        """Whether it says so."""
        if not self.is_running:
            raise ServerError(f"{self.name} ended: {self.log_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None, "not started"
        return self._process.pid

    def log_text(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def check_log(self, *foreseen: str) -> None:
        """It may have written no traceback, for what goes wrong around it is foreseen; and no signature, token or secret (rule 14).

        Args:
            foreseen: Events that are logged with one, and may be.

        Raises:
            AssertionError: It has.
        """
        marks = [f'"event":"{event}"' for event in foreseen]
        for line in self.log_text().splitlines():
            if "Traceback (most recent call last)" in line and not any(mark in line for mark in marks):
                text, found = self.log_text(), self.log_text().index(line)
                raise AssertionError(f"{self.name} wrote a traceback: {text[max(0, found - 500) : found + 3000]}")
        scan = Scan(secrets={key.encode() for name in SECRETS if (key := self.environment.get(name))})
        scan.files("logs", [self.log])
        assert not scan.findings, f"{self.name} wrote what is secret: {scan.findings[:3]}"

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: it hangs, and does not know it."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM, and wait for nothing."""
        os.kill(self.pid, signal.SIGTERM)

    async def ended(self) -> int:
        """Wait until its process has ended; its exit status."""
        await until(lambda: not self.is_running, STOP_TIMEOUT, f"{self.name} does not end:", told=self.log_text)
        assert self._process is not None
        return int(self._process.returncode)


class Balancer:
    """HAProxy from Debian in front of instances: it looks at their readiness, and tries nothing twice, as load balancers that can't."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: ServerProcess | None = None

    def start(self, instances: Sequence[Instance]) -> None:
        """Start it.

        Raises:
            ServerError: HAProxy is not installed, or does not start.
        """
        program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise ServerError("haproxy is missing: install the Debian package haproxy")
        folder = new_folder("haproxy")
        servers = "\n".join(f"    server {each.name} 127.0.0.1:{each.port}" for each in instances)
        configuration = folder / "haproxy.cfg"
        configuration.write_text(
            CONFIGURATION.format(
                port=self.port, interval=HEALTH_INTERVAL, servers=servers, socket=self._socket(folder)
            ),
            encoding="utf-8",
        )
        self._process = ServerProcess([program, "-db", "-f", configuration], folder=folder)
        self._process.start(self._is_ready)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()

    def sees(self, instance: Instance) -> bool:
        """Whether requests are sent to this instance."""
        assert self._process is not None, "not started"
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(5)
            asking.connect(self._socket(self._process.folder))
            asking.sendall(b"show stat\n")
            told = b""
            while piece := asking.recv(64 * 1024):
                told += piece
        rows = csv.DictReader(io.StringIO(told.decode().removeprefix("# ")))
        return any(row["svname"] == instance.name and row["status"] == "UP" for row in rows)

    @staticmethod
    def _socket(folder: Path) -> str:
        return str(folder / "stats")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class Fleet:
    """Instances on the same database, store and cache, and the balancer in front.

    Attributes:
        url: The balancer's address.
        instances: All of them, running or not.
    """

    def __init__(self, instances: Sequence[Instance], balancer: Balancer) -> None:
        self.instances = list(instances)
        self._balancer = balancer
        self.url = balancer.url

    async def start(self) -> None:
        """Start all, and the balancer."""
        for instance in self.instances:
            instance.launch()
        for instance in self.instances:
            await instance.ready()
        self._balancer.start(self.instances)
        await self.seen(*self.instances)

    async def stop(self) -> None:
        """Stop the balancer, and `kill -9` all: how they end by themselves is for an experiment to look at."""
        self._balancer.stop()
        for instance in self.instances:
            instance.kill()

    async def restart(self, instance: Instance) -> int:
        """SIGTERM, wait for its end, start it again, wait until the balancer sees it; the exit status it had."""
        instance.terminate()
        status = await instance.ended()
        instance.launch()
        await instance.ready()
        await self.seen(instance)
        return status

    async def seen(self, *instances: Instance) -> None:
        """Wait until the balancer sends requests to these."""
        for instance in instances:
            await until(lambda: self._balancer.sees(instance), START_TIMEOUT, f"{instance.name} is not seen")  # noqa: B023

    async def revive(self) -> None:
        """Start those again that were killed."""
        dead = [instance for instance in self.instances if not instance.is_running]
        for instance in dead:
            instance.launch()
        for instance in dead:
            await instance.ready()
        await self.seen(*dead)

    def check_logs(self) -> None:
        """None of them may have written a traceback, or what is secret."""
        for instance in self.instances:
            instance.check_log()
