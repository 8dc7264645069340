"""Names of hosts, resolved on threads of this package's own.

The event loop would do it on the executor that everybody shares, and a thread that waits for a name server ends by itself only: with a Redis
whose name does not resolve, a few calls would use up the threads that the database's driver needs for its own names.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

__all__ = ["HostNames"]

_LOOKUPS = 8
"""Lookups at a time: more than there are sentinels."""


class HostNames:
    """Asks the system for addresses: once per name, for all who want to know at the same time."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="uploadcore-redis-names")
        self._lookups: dict[str, asyncio.Future[Sequence[str]]] = {}
        self._is_closed = False

    async def addresses(self, host: str) -> Sequence[str]:
        """A host's addresses, at least one, in the order in which they are to be tried. Who gives up leaves the lookup to those who come next.

        Raises:
            OSError: It has none, or this is closed, or was meanwhile.
        """
        if _is_address(host):
            return [host]
        if self._is_closed:
            raise ConnectionAbortedError("closed: no host's name is looked up any more")
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _resolved, host)
            self._lookups[host] = lookup
            lookup.add_done_callback(lambda ended: self._forget(host, ended))
        await asyncio.wait([lookup])
        if lookup.cancelled():
            raise ConnectionAbortedError("closed while the host's name was looked up")
        return lookup.result()

    def close(self) -> None:
        """Ask nothing more. A thread that still waits ends by itself, and the process not before it."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for lookup in list(self._lookups.values()):
            lookup.cancel()

    def _forget(self, host: str, lookup: asyncio.Future[Sequence[str]]) -> None:
        del self._lookups[host]
        if not lookup.cancelled():
            lookup.exception()  # nobody may be left to look at it, which is no reason to complain


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _resolved(host: str) -> Sequence[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
