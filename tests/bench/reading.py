"""Reads of public files, without a token: one against a bare Litestar JSON handler, many with a cache against without; each on one core.

    python -m tests.bench.reading

All are served the same way, one after the other, in turns; each ratio is the median over the turns. Counted are requests per second of
CPU that the serving process has used, so that whatever else the machine does is no part of it: what a core can do, had it nothing else to do.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.load import get, watch
from tests.bench.server import cpu_seconds, process, uvicorn
from tests.bench.signing import token
from tests.servers.postgres import PostgresServer
from tests.servers.process import free_port
from tests.servers.redis import RedisServer
from uploadcore_sql import SqlDatabase

TURNS = 5
SECONDS = 1.5
FILES = 16
"""Read at a time, each over a connection of its own: of one that everybody reads at once, an instance makes one read of the database anyway."""


@dataclass(frozen=True)
class Served:
    """A server, and the requests it is sent, each over a connection of its own."""

    pid: int
    port: int
    requests: Sequence[bytes]

    def rate(self, requests: Sequence[bytes] = ()) -> float:
        """Requests answered per second of its CPU."""
        used = cpu_seconds(self.pid)
        watched = watch([(self.port, request) for request in requests or self.requests], seconds=SECONDS)
        if watched.errors:
            raise RuntimeError(watched.errors[0])
        return len(watched.seconds) / (cpu_seconds(self.pid) - used)

    def rate_of_one(self) -> float:
        """The same for one of the requests, over as many connections."""
        return self.rate([self.requests[0]] * len(self.requests))


def public_file(url: str, bearer: str) -> str:
    """Path of a new public file with all that can be said of one."""

    asked = {"filename": "trip.mp4", "size": 5, "content_type": "video/mp4", "metadata": {"camera": "x100"}, "sign": 1}
    upload = call(url, bearer, "POST", "/v1/uploads", asked)
    [part] = upload["parts"]
    request = urllib.request.Request(part["url"], data=b"bytes", headers=part["headers"], method=part["method"])
    with urllib.request.urlopen(request, timeout=10):
        call(url, bearer, "POST", f"/v1/uploads/{upload['id']}/complete", {})
    path = f"/v1/files/{upload['file_id']}"
    said = {"title": "Trip to the lake", "description": "Two days, one boat.", "labels": ["lake", "2026"]}
    call(url, bearer, "PATCH", path, {**said, "visibility": "public"})
    return path


def new_database(postgres: PostgresServer) -> str:
    """URL of a database for the service."""
    url = postgres.new_database()
    asyncio.run(SqlDatabase(url).migrate())
    return url


def call(url: str, bearer: str, method: str, path: str, body: Mapping[str, Any]) -> Any:
    """One request to the service."""
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    request = urllib.request.Request(url + path, data=json.dumps(body).encode(), headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@contextmanager
def serving(folder: Path, name: str, core: int, **settings: str) -> Iterator[Served]:
    """The service with these settings."""
    port, key = free_port(), secrets.token_hex(32)
    env = {
        "UPLOADCORE_AUTH_JWT_KEY": key,
        "UPLOADCORE_DATA_DIR": str(folder / name),
        "UPLOADCORE_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "UPLOADCORE_LOG_LEVEL": "warning",
        **{f"UPLOADCORE_{setting.upper()}": value for setting, value in settings.items()},
    }
    with process(uvicorn("tests.bench.signing_app:app", port), port, core=core, env=env) as pid:
        url, bearer = f"http://127.0.0.1:{port}", token(key)
        yield Served(pid, port, [get(public_file(url, bearer)) for _ in range(FILES)])


def main(turns: int = TURNS) -> list[str]:
    """Run; return the lines to print."""
    cores = sorted(os.sched_getaffinity(0))
    server_core, own_core = cores[0], cores[-1]
    bare = free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres, redis = PostgresServer(), RedisServer()
        for port in (postgres, redis):
            port.start()
            stack.callback(port.stop)
        pid = stack.enter_context(process(uvicorn("tests.bench.bare:app", bare), bare, core=server_core))
        on_postgres = {"database": new_database(postgres)}
        served = {
            name: stack.enter_context(serving(folder, name, server_core, **settings))
            for name, settings in {
                "memory": {},
                "redis": {"cache": redis.url},
                "sqlite": {"cache": "none"},
                "postgres": {**on_postgres, "cache": "none"},
                "postgres and redis": {**on_postgres, "cache": redis.url},
            }.items()
        }
        served["bare"] = Served(pid, bare, [get("/bare")] * FILES)
        if len(cores) > 1:
            os.sched_setaffinity(0, {own_core})
            stack.callback(os.sched_setaffinity, 0, set(cores))
        one: dict[str, list[float]] = {"memory": [], "redis": [], "bare": []}
        many: dict[str, list[float]] = {name: [] for name in served if name != "bare"}
        for server in served.values():
            server.rate()
        for _ in range(turns):
            for name, rates in one.items():
                rates.append(served[name].rate_of_one())
            for name, rates in many.items():
                rates.append(served[name].rate())
    return [
        _line("public_file_vs_bare_litestar", one["memory"], one["bare"], 0.8),
        _line("public_file_redis_vs_bare_litestar", one["redis"], one["bare"], 0.8),
        _line("cached_reads_vs_uncached_sqlite", many["memory"], many["sqlite"]),
        _line("cached_reads_vs_uncached_postgres", many["postgres and redis"], many["postgres"]),
    ]


def _line(name: str, ours: list[float], theirs: list[float], target: float | None = None) -> str:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    aimed = "" if target is None else f"target {target}; "
    return (
        f"{name} {statistics.median(ratios):.2f} ({aimed}min {min(ratios):.2f} max {max(ratios):.2f}; "
        f"{statistics.median(ours):.0f} against {statistics.median(theirs):.0f} requests per second of CPU)"
    )


if __name__ == "__main__":
    print("\n".join(main()))
