"""Rule 14, after the whole run: no signature, token or secret is in any log, database or cache that the tests left or wrote.

Read are: what every test logged or wrote to standard error; logs, databases and the client's journals below pytest's temporary folder; the logs of
PostgreSQL and Redis, with every statement and its parameters and every command that wrote something; every table of every database made in
PostgreSQL; every value in Redis. Not the logs of the object stores: they are the stores', not ours, and a request is what they log.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.choice import Servers
from tests.servers.postgres import ExternalPostgres, PostgresServer
from tests.servers.redis import ExternalRedis, RedisServer
from tests.servers.s3 import S3Server

SECRET = re.compile(
    rb"""
      X-Amz-(?:Signature|Credential|Security-Token)(?:=|%3D)  # a pre-signed URL of S3's kind
    | [?&]signature=\w                                        # and of ours
    | Signature=[0-9a-f]{64}                                  # S3's Authorization header
    | \bBearer\s+[\w.~+/-]{8,}
    | \beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}                 # a JWT
    | \bwhsec_[\w+/]{24,}                                     # what signs webhooks
    | \bv1,[\w+/]{43}=                                       # and their signatures
    | secret[ -]of[ -]the[ -]tests                            # every secret of ours says so
    """,
    re.VERBOSE | re.IGNORECASE,
)
SUFFIXES = frozenset({".log", ".db", ".db-wal", ".journal", ".sqlite"})
CHUNK = 1 << 24
OVERLAP = 1 << 12
"""Bytes that are read twice, so that nothing hides between two chunks."""
SHOWN = 12
"""Characters of a finding that are told: enough to know it, too few to use it."""


@dataclass
class Scan:
    """What was read, and where something was found."""

    read: dict[str, int] = field(default_factory=dict)
    """How many of what."""
    findings: list[str] = field(default_factory=list)
    secrets: set[bytes] = field(default_factory=set)
    """Beside what the pattern knows: keys that the environment gave."""

    def look(self, where: str, content: bytes) -> None:
        """Look into some bytes."""
        found = [match.group() for match in SECRET.finditer(content)]
        found += [secret for secret in self.secrets if secret in content]
        for one in sorted(set(found)):
            self.findings.append(f"{where}: {one[:SHOWN].decode(errors='replace')}…")

    def files(self, what: str, files: Iterable[Path]) -> None:
        """Look into files. One that goes away meanwhile is not missed."""
        for file in files:
            with contextlib.suppress(FileNotFoundError), file.open("rb") as content:
                self.count(what)
                last = b""
                while chunk := content.read(CHUNK):
                    self.look(str(file), last + chunk)
                    last = chunk[-OVERLAP:]

    def folder(self, folder: Path) -> None:
        """Look into what the tests left below their temporary folder."""
        self.files(
            "files of the tests", (file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        )

    def servers(self, servers: Servers) -> None:
        """Look into the servers that run, and their logs."""
        for server in servers.running.values():
            if isinstance(server, S3Server):
                self.secrets.add(server.secret_key.encode())
        for server in servers.running.values():
            if isinstance(server, ExternalPostgres):
                self._postgres(server)
            elif isinstance(server, ExternalRedis):
                self._redis(server)

    def count(self, what: str, number: int = 1) -> None:
        """Note that something was read."""
        self.read[what] = self.read.get(what, 0) + number

    def lines(self) -> Iterator[str]:
        """The outcome, line by line."""
        read = ", ".join(f"{number} {what}" for what, number in self.read.items())
        yield f"scan for secrets: {len(self.findings) or 'nothing'} found in {read or 'nothing'}"
        yield from self.findings

    def _postgres(self, server: ExternalPostgres) -> None:
        if isinstance(server, PostgresServer):
            self.files("logs of servers", [server.process.log])
            if not server.process.awake():
                return
        for url in server.databases:
            for table, rows in server.contents(url):
                self.count("rows in PostgreSQL", len(rows))
                for row in rows:
                    self.look(f"table {table}", row.encode())

    def _redis(self, server: ExternalRedis) -> None:
        if isinstance(server, RedisServer):
            self.files("logs of servers", [server.process.log])
            self.files("files of Redis's commands", server.written())
            if not server.process.awake():
                return
        with contextlib.closing(server.client()) as client:
            for key in client.scan_iter(count=1000):
                self.count("keys in Redis")
                self.look(f"Redis, key {key!r}", key + b"\n" + (client.dump(key) or b""))
