"""Connections to permitted addresses only: a name is resolved once, every address it has is checked, and one that was checked is connected to.

Checking a name and connecting by that name afterwards would be two questions to a name server that may answer them differently.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import httpcore

from uploadcore_webhooks.addresses import Address, Network, is_permitted

__all__ = ["CheckedNetwork", "Resolver", "SystemResolver"]

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives a host's addresses, in the order in which they are to be tried. Raises `OSError` where there are none."""


class SystemResolver:
    """Asks the system, in threads of its own: one that waits for a name server must keep nobody else's work from its thread."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="uploadcore-webhooks-resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    def close(self) -> None:
        """Ask nothing more. A thread that still waits ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """httpcore's way to the network, past the check.

    Args:
        resolve: Where a host's addresses come from.
        permitted: Networks that are permitted besides the open internet.
    """

    def __init__(self, resolve: Resolver, permitted: Sequence[Network]) -> None:
        """Connect to nothing yet."""
        self._resolve = resolve
        self._permitted = tuple(permitted)
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that takes the connection.

        Raises:
            httpcore.ConnectError: The host has no address, or one that is not permitted; or none takes the connection.
            httpcore.ConnectTimeout: Nobody answered in time.
        """
        failure: httpcore.NetworkError | httpcore.TimeoutException | None = None
        for address in await self._checked(host, port, timeout):
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure or httpcore.ConnectError("the host has no address")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def _checked(self, host: str, port: int, seconds: float | None) -> Sequence[Address]:
        try:
            async with asyncio.timeout(seconds):
                addresses = [ip_address(address) for address in await self._resolve(host, port)]
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout("no name server answered in time") from exc
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError("the host's name leads nowhere") from exc
        refused = [address for address in addresses if not is_permitted(address, self._permitted)]
        if refused:
            # All count: which of them is connected to is not for whoever answers for the name to choose.
            raise httpcore.ConnectError(
                f"the host has the address {refused[0]}, which is not on the open internet: allow={refused[0]} permits it"
            )
        return addresses
