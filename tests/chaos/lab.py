"""What experiments stand on: real servers, started once; and for each experiment a database, a bucket, proxies and a fleet of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.chaos.conservation import (
    EVENTS_DB,
    Books,
    Violation,
    read_books,
    read_contents,
    read_stream,
    stream_of,
    unrest,
    violations,
)
from tests.chaos.faults import ProxyLoop
from tests.chaos.fleet import Balancer, Fleet, Instance
from tests.chaos.http_proxy import HttpProxy
from tests.chaos.load import JWT_KEY, Uploaded
from tests.chaos.tcp_proxy import TcpProxy, at_host, at_socket
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.swift import SwiftServer
from tests.soak.service import COMMAND
from uploadcore import UploadConfig, UploadCore
from uploadcore.views import SweepReport
from uploadcore_s3 import Credentials, S3ObjectStore
from uploadcore_sql import SqlDatabase

__all__ = ["LEASE", "Lab", "World", "running_lab"]

CAPABILITIES = "swift,concurrent_complete"
"""Nothing here completes twice at once on purpose, and the ten minutes until a second completion would prove nothing."""
LEASE = 2.0
"""Seconds an instance's claim stands in all experiments."""
SWEEP_INTERVAL = 0.5
THREADS = 64
QUIET_TIMEOUT = 60.0
"""Seconds until all is quiet, once nothing goes wrong any more."""
COMMAND_TIMEOUT = 120.0
STORE, DATABASE, CACHE = "store", "database", "cache"


@dataclass(slots=True)
class Lab:
    """The servers of one run.

    Attributes:
        chance: Seeded; whatever an experiment leaves to chance comes from here.
        is_short: Whether experiments are to be of the size CI has time for.
    """

    chance: random.Random
    is_short: bool
    store: SwiftServer
    postgres: PostgresServer
    redis: RedisServer
    proxies: ProxyLoop
    folder: Path

    def sized(self, full: int, short: int) -> int:
        """A number that depends on how much time there is."""
        return short if self.is_short else full

    @asynccontextmanager
    async def world(
        self,
        *,
        instances: int = 2,
        bucket: str | None = None,
        database: str | None = None,
        public_endpoint: str | None = None,
        threads: int = THREADS,
        **settings: str,
    ) -> AsyncIterator[World]:
        """A fleet of so many instances, started.

        Args:
            instances: How many.
            bucket: That of another world; by default one of its own.
            database: One that is there and migrated; by default one of its own.
            public_endpoint: Where clients send parts to; by default the store itself.
            threads: How many of each instance call the store at once.
            settings: Of the service, over those that all have.
        """
        new = self.postgres.new_database() if database is None else database
        world = World(self, settings, bucket=bucket or self.store.new_bucket(), database=new)
        world.public_endpoint = public_endpoint or self.store.endpoint
        world.threads = threads
        if database is None:
            await world.command("migrate")
        try:
            world.build(instances)
            await world.fleet.start()
            yield world
        finally:
            await world.close()


class World:
    """One installation: its database, its bucket, proxies before all it depends on, and its fleet.

    Attributes:
        fleet: The instances and their balancer.
        store: The proxy before the store, for calls of the service; clients' parts go to the store directly.
        database: The proxy before PostgreSQL.
        cache: The proxy before Redis.
        database_url: Of the database itself, past the proxy.
        stream: Where its events go: a key in Redis, past the proxy too.
        public_endpoint: Where clients send parts to.
        threads: How many of each instance call the store at once.
    """

    def __init__(self, lab: Lab, settings: Mapping[str, str], *, bucket: str, database: str) -> None:
        self.lab = lab
        self.bucket = bucket
        self.database_url = database
        self.public_endpoint = lab.store.endpoint
        self.threads = THREADS
        self._settings = dict(settings)
        self._folder = Path(tempfile.mkdtemp(dir=lab.folder))
        endpoint = urlsplit(lab.store.endpoint)
        sockets = parse_qs(urlsplit(database).query)["host"][0]
        self.store = HttpProxy(lab.proxies, endpoint.hostname or "", endpoint.port or 0, chance=lab.chance)
        self.database = TcpProxy(lab.proxies, at_socket(f"{sockets}/.s.PGSQL.5432"), lab.chance)
        self.cache = TcpProxy(lab.proxies, at_host("127.0.0.1", lab.redis.port), lab.chance)
        self.stream = stream_of(database)
        self.fleet: Fleet

    def build(self, instances: int) -> None:
        """Make the fleet; nothing is started."""
        balancer = Balancer()
        self.fleet = Fleet(
            [
                Instance(f"instance-{number}", self._folder, self.settings(f"instance-{number}", balancer.url))
                for number in range(1, instances + 1)
            ],
            balancer,
        )

    def settings(self, source: str | None = None, public_url: str = "") -> dict[str, str]:
        """The environment of an instance that proxies know as `source`; past the proxies, where it has no name."""
        lab = self.lab
        store, database, cache = lab.store.endpoint, self.database_url, lab.redis.url
        if source is not None:
            store = self.store.listen(source)
            port, name = self.database.listen(source), urlsplit(self.database_url).path
            database = f"postgresql://postgres@127.0.0.1:{port}{name}?sslmode=disable"
            cache = f"redis://127.0.0.1:{self.cache.listen(source)}/0"
        options = {
            "endpoint": store,
            "public_endpoint": self.public_endpoint,
            "region": lab.store.region,
            "capabilities": CAPABILITIES,
            "threads": str(self.threads),
        }
        return {
            "UPLOADCORE_STORAGE": f"s3://{self.bucket}?{urlencode(options)}",
            "UPLOADCORE_DATABASE": database,
            "UPLOADCORE_CACHE": cache,
            "UPLOADCORE_EVENTS": f"stream=redis://127.0.0.1:{lab.redis.port}/{EVENTS_DB}#stream={self.stream}&maxlen=0",
            "UPLOADCORE_PUBLIC_URL": public_url,
            "UPLOADCORE_PART_SIZE_MIN": "1",
            "UPLOADCORE_AUTH_JWT_KEY": JWT_KEY,
            "UPLOADCORE_LEASE": f"{LEASE:g}s",
            "UPLOADCORE_SWEEP_INTERVAL": f"{SWEEP_INTERVAL:g}s",
            "UPLOADCORE_DRAIN_DELAY": "1s",
            "UPLOADCORE_LOG_FORMAT": "json",
            "UPLOADCORE_LOG_LEVEL": "info",
            "AWS_ACCESS_KEY_ID": lab.store.access_key,
            "AWS_SECRET_ACCESS_KEY": lab.store.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            **self._settings,
        }

    async def command(self, *words: str, **settings: str) -> str:
        """Run `uploadcore …` past the proxies; what it printed.

        Raises:
            RuntimeError: It did not end well.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UPLOADCORE_")}
        running = await asyncio.create_subprocess_exec(
            *COMMAND,
            *words,
            env={**environment, **self.settings(), **settings},
            cwd=self._folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(running.communicate(), COMMAND_TIMEOUT)
        if running.returncode != 0:
            raise RuntimeError(f"uploadcore {words[0]} ended with {running.returncode}: {err.decode()[-2000:]}")
        return out.decode()

    async def aged_sweep(self) -> SweepReport:
        """One sweep, past the proxies, as it would be days later: what no row knows is old enough to be an orphan after two seconds."""
        lab, moment = self.lab, timedelta(seconds=1)
        core = UploadCore(
            store=S3ObjectStore(
                self.bucket,
                endpoint=lab.store.endpoint,
                region=lab.store.region,
                capabilities=CAPABILITIES,
                part_size_min=1,
                credentials=Credentials(lab.store.access_key, lab.store.secret_key),
            ),
            database=SqlDatabase(self.database_url),
            config=UploadConfig(upload_lifetime=moment, url_lifetime=moment, lease=2 * moment, lease_renewal=moment),
        )
        async with core:
            return await core.sweep()

    async def books(self, contents_of: Collection[str] = ()) -> Books:
        """The database, the store and the stream of events, as they are; and the bytes of the objects that these uploads brought."""
        books = await read_books(self.database_url, self.lab.store, self.bucket)
        await asyncio.to_thread(read_stream, books, self.lab.redis, self.stream)
        await asyncio.to_thread(read_contents, books, self.lab.store, self.bucket, contents_of)
        return books

    async def quiet(self, within: float = QUIET_TIMEOUT) -> Books:
        """Wait until nothing is under way any more; the database's books then."""
        end = asyncio.get_running_loop().time() + within
        while stirring := await unrest(self.database_url):
            if asyncio.get_running_loop().time() > end:
                raise Violation(f"not quiet after {within} s: {dict(stirring)}")
            await asyncio.sleep(0.2)
        return await read_books(self.database_url)

    async def conserved(
        self,
        completed: Iterable[str | Uploaded] = (),
        *,
        reopened: Collection[str] = (),
        within: float = QUIET_TIMEOUT,
    ) -> Books:
        """Wait until all is quiet, let a few days pass for what nobody knows, and check rule 9.

        Args:
            completed: Uploads that clients were told are completed. Of ids it is known that they are; of uploads, that their bytes are there too.
            reopened: Ids of uploads that were reopened, each once.
            within: Seconds until it has to be quiet.

        Raises:
            Violation: It does not hold.
        """
        told = list(completed)
        ids = [one.upload_id if isinstance(one, Uploaded) else one for one in told]
        sent = {one.upload_id: one.body for one in told if isinstance(one, Uploaded)}
        assert len(set(sent.values())) == len(sent), "equal uploads: bytes of the one would pass for those of the other"
        await self.quiet(within)
        end = asyncio.get_running_loop().time() + within
        found_in = partial(violations, completed=ids, reopened=reopened)
        while found := found_in(books := await self.books()):
            # Multipart uploads that only the store knows go with the sweep, once they are old enough.
            if found_in(books, no_multiparts=False) or asyncio.get_running_loop().time() > end:
                break
            await self.aged_sweep()
        await asyncio.to_thread(read_contents, books, self.lab.store, self.bucket, sent)
        if found := found or found_in(books, sent=sent):
            raise Violation(f"{len(found)} violations: " + "; ".join(found[:10]))
        self.fleet.check_logs()
        return books

    async def close(self) -> None:
        """Stop the fleet and the proxies."""
        if hasattr(self, "fleet"):
            await self.fleet.stop()
        for proxy in (self.store, self.database, self.cache):
            proxy.close()
        if keep := os.environ.get("CHAOS_KEEP_LOGS"):
            shutil.copytree(self._folder, Path(keep) / self._folder.name, dirs_exist_ok=True)


@contextmanager
def running_lab(seed: int, *, is_short: bool = False) -> Iterator[Lab]:
    """Start the servers; stop them at the end."""
    with contextlib.ExitStack() as stack:
        servers = SwiftServer(), PostgresServer(), RedisServer()
        for server in servers:
            server.start()
            stack.callback(server.stop)
        proxies = ProxyLoop()
        stack.callback(proxies.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uploadcore-chaos-")))
        yield Lab(random.Random(seed), is_short, *servers, proxies, folder)
