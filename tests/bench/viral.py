"""One file that everybody looks at: two instances, PostgreSQL and Redis real, and Redis killed in the middle.

    python -m tests.bench.viral

The instances are `uploadcore serve`; the load is a process of its own, without a token. PostgreSQL logs every statement of the instances
with a cache, and the reads of the file are counted there. Every connection sends its next request when the last was answered, so that the
latencies are those of instances that have all they can do. Durability of the database is off: nothing is written meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import asyncpg

from tests.bench.load import Watched, get, watch
from tests.bench.reading import new_database, public_file
from tests.bench.signing import token
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.soak.service import Service

INSTANCES = 2
CONNECTIONS = 8
"""To each instance."""
TTL = 30
"""Seconds a copy lives at most: half of the default, and long enough for one instance to hear that another has renewed it."""
WARMING = 2
"""Seconds of load before anything counts."""
CACHED = 2 * TTL
"""Seconds of load with everything as it should be."""
WINDOW = 10
"""Seconds of load without cache, once Redis is killed, and once it is back."""


def main() -> list[str]:
    """Run; return the lines to print."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres, redis = PostgresServer(), RedisServer()
        for server in (postgres, redis):
            server.start()
            stack.callback(server.stop)
        logged, plain = new_database(postgres), new_database(postgres)
        asyncio.run(_log_statements(logged))
        with _instances(folder / "uncached", plain, "none") as (ports, path):
            _, uncached = _under_load(ports, path, [(WARMING, _nothing), (WINDOW, _nothing)])
        with _instances(folder / "cached", logged, redis.url) as (ports, path):
            counted: list[int] = []

            def count() -> None:
                counted.append(_reads(postgres, path))

            def kill() -> None:
                count()
                redis.kill()

            def restart() -> None:
                count()
                redis.restart()

            _, cached, away, back = _under_load(
                ports, path, [(WARMING, count), (CACHED, kill), (WINDOW, restart), (WINDOW, count)]
            )
    reads = [later - earlier for earlier, later in pairwise(counted)]
    with_cache, without_redis, _ = reads
    errors = [error for watched in (cached, away, back) for error in watched.errors]
    per_ttl = with_cache / INSTANCES / (CACHED / TTL)
    per_second = without_redis / INSTANCES / WINDOW
    requests = sum(len(watched.seconds) for watched in (cached, away, back))
    first = f": {errors[0]}" if errors else ""
    return [
        f"viral_database_reads_per_ttl {per_ttl:.2f} (target 1, per instance; {with_cache} for {len(cached.seconds)} requests)",
        f"viral_database_reads_per_second_without_redis {per_second:.2f} (per instance; {without_redis} for {len(away.seconds)} requests)",
        f"viral_errors {len(errors)} (target 0; {requests} requests, Redis killed and started again meanwhile){first}",
        *(
            f"viral_{name} {_ms(cached, percent)} ms with cache, {_ms(away, percent)} once Redis is killed, "
            f"{_ms(uncached, percent)} without cache"
            for name, percent in (("p50", 50), ("p99", 99), ("max", 100))
        ),
    ]


def _nothing() -> None:
    """What is to be done where nothing is."""


@contextmanager
def _instances(folder: Path, database: str, cache: str) -> Iterator[tuple[list[int], str]]:
    """Instances that share database and cache while the block runs; their ports, and the path of a public file."""
    key = secrets.token_hex(32)
    with ExitStack() as stack:
        services = []
        for number in range(INSTANCES):
            own = folder / str(number)
            own.mkdir(parents=True)
            service = Service(
                own,
                UPLOADCORE_DATABASE=database,
                UPLOADCORE_CACHE=cache,
                UPLOADCORE_FILE_CACHE_TTL=str(TTL),
                UPLOADCORE_AUTH_JWT_KEY=key,
            )
            service.start()
            stack.callback(service.kill)
            services.append(service)
        yield [service.port for service in services], public_file(services[0].url, token(key))


def _under_load(ports: Sequence[int], path: str, windows: Sequence[tuple[int, Callable[[], None]]]) -> list[Watched]:
    """What became of the requests of each so many seconds; what is to be done at their end is done while the load goes on."""
    lengths = ",".join(str(seconds) for seconds, _ in windows)
    command = [sys.executable, "-m", "tests.bench.viral", path, lengths, *map(str, ports)]
    became = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        for _, action in windows:
            became.append(Watched(**json.loads(client.stdout.readline())))
            action()
    return became


def _load(path: str, windows: str, ports: Sequence[int]) -> None:
    """The load, and a line for each window of it."""
    for seconds in windows.split(","):
        watched = watch([(port, get(path)) for port in ports] * CONNECTIONS, seconds=float(seconds))
        print(json.dumps({"seconds": watched.seconds, "errors": watched.errors}), flush=True)


async def _log_statements(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE \"{name}\" SET log_statement = 'all'")
    finally:
        await connection.close()


def _reads(postgres: PostgresServer, path: str) -> int:
    """How often the file was read so far: every statement about it has its id among the parameters that are logged."""
    wanted = f"'{path.rpartition('/')[2]}'"
    return sum(wanted in line and "arameters:" in line for line in postgres.process.log_text().splitlines())


def _ms(watched: Watched, percent: int) -> str:
    seconds = max(watched.seconds) if percent == 100 else statistics.quantiles(watched.seconds, n=100)[percent - 1]
    return f"{seconds * 1000:.1f}"


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("\n".join(main()))
    else:
        _load(sys.argv[1], sys.argv[2], [int(port) for port in sys.argv[3:]])
