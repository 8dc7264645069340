"""The developer on loopback: everybody on this machine, and nobody else, not even through a browser on it."""

from __future__ import annotations

from typing import Any

import pytest

from uploadcore.errors import ForbiddenError
from uploadcore_http import LoopbackDeveloper
from uploadcore_http.auth import is_direct_loopback


def scope(*headers: tuple[str, str], client: Any = ("127.0.0.1", 5), host: str = "127.0.0.1:8484") -> dict[str, Any]:
    named = [("host", host), *headers]
    return {
        "client": client,
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in named],
    }


@pytest.mark.parametrize("host", ["127.0.0.1:8484", "localhost", "localhost:8484", "[::1]:8484", "127.0.0.2"])
async def test_a_process_on_this_machine_is_the_developer(host: str) -> None:
    principal = await LoopbackDeveloper()(scope(host=host))

    assert principal is not None
    assert principal.owner == "dev"


@pytest.mark.parametrize("client", [("10.0.0.7", 5), ("192.0.2.1", 5), ("testclient", 5), None])
async def test_another_machine_is_nobody(client: Any) -> None:
    assert await LoopbackDeveloper()(scope(client=client)) is None


@pytest.mark.parametrize("header", ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"])
async def test_what_came_through_a_proxy_is_nobodys(header: str) -> None:
    assert await LoopbackDeveloper()(scope((header, "127.0.0.1"))) is None
    assert not is_direct_loopback(scope((header, "127.0.0.1")))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8484", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "10.0.0.7"],
)
async def test_a_name_rebound_to_this_machine_is_refused(host: str) -> None:
    with pytest.raises(ForbiddenError):
        await LoopbackDeveloper()(scope(host=host))


async def test_two_hosts_are_refused() -> None:
    with pytest.raises(ForbiddenError):
        await LoopbackDeveloper()(scope(("host", "127.0.0.1:8484")))


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8484"])
async def test_a_page_of_another_origin_is_refused(origin: str) -> None:
    with pytest.raises(ForbiddenError, match="CORS_ORIGINS"):
        await LoopbackDeveloper()(scope(("origin", origin)))


async def test_a_page_of_another_site_without_an_origin_is_refused() -> None:
    with pytest.raises(ForbiddenError):
        await LoopbackDeveloper()(scope(("sec-fetch-site", "cross-site")))


async def test_pages_of_the_service_itself_and_of_configured_origins_are_let_in() -> None:
    authenticate = LoopbackDeveloper(["http://localhost:5173"])

    assert await authenticate(scope(("origin", "http://127.0.0.1:8484"))) is not None
    assert await authenticate(scope(("origin", "http://localhost:5173"), ("sec-fetch-site", "cross-site"))) is not None
    assert await authenticate(scope(("sec-fetch-site", "none"))) is not None
