"""How often one caller may ask: counted by who the token names or where the connection comes from, never by what a header claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.http.process import service_process
from tests.integration.http.service import BASE, KEY, Service, bearer, serving, token
from uploadcore import Visibility
from uploadcore_http import Principal
from uploadcore_http.problems import RateLimitedError
from uploadcore_http.rate_limit import RateLimit, _peer


class ManualTimer:
    """Seconds, as many as a test says."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def is_admitted(limit: RateLimit, owner: str | None, peer: str = "192.0.2.1") -> bool:
    try:
        limit.admit({"client": (peer, 5)}, None if owner is None else Principal(owner))
    except RateLimitedError:
        return False
    return True


# --- the limit itself ---------------------------------------------------------------------------------------------


def test_a_window_ends_as_long_after_its_first_request_as_the_limit_says() -> None:
    timer = ManualTimer()
    limit = RateLimit("2/minute", timer=timer)

    verdicts = [is_admitted(limit, "u") for _ in range(3)]
    timer.now += 59.9
    verdicts.append(is_admitted(limit, "u"))
    timer.now += 0.1
    verdicts.append(is_admitted(limit, "u"))

    assert verdicts == [True, True, False, False, True]


def test_what_is_refused_says_how_long_until_it_is_not() -> None:
    timer = ManualTimer()
    limit = RateLimit("1/minute", timer=timer)
    limit.admit({}, Principal("u"))
    timer.now += 17.5

    with pytest.raises(RateLimitedError) as refused:
        limit.admit({}, Principal("u"))

    assert refused.value.retry_after == 43


def test_of_several_limits_each_counts() -> None:
    timer = ManualTimer()
    limit = RateLimit("2/second; 3/minute", timer=timer)

    verdicts = [is_admitted(limit, "u") for _ in range(2)]
    timer.now += 1
    verdicts += [is_admitted(limit, "u") for _ in range(2)]

    assert verdicts == [True, True, True, False]


def test_callers_who_went_away_are_forgotten() -> None:
    timer = ManualTimer()
    limit = RateLimit("5/second", timer=timer)
    for number in range(1_000):
        is_admitted(limit, f"u{number}")
    assert len(limit._windows._kept) == 1_000

    timer.now += 1
    is_admitted(limit, "u")

    assert len(limit._windows._kept) == 1


def test_any_number_of_callers_fits_into_the_room_there_is() -> None:
    limit = RateLimit("1/hour", max_callers=100)

    admitted = [is_admitted(limit, f"u{number}") for number in range(10_000)]

    assert all(admitted)
    assert len(limit._windows._kept) == 100
    assert not is_admitted(limit, "u9999")


def test_one_owner_can_not_use_up_anothers_requests_whatever_they_are_called() -> None:
    limit = RateLimit("1/hour")
    for owner in ("192.0.2.1", "a/b", "a", "b/1/1/hour", "peer/192.0.2.1"):
        assert is_admitted(limit, owner)

    assert is_admitted(limit, None, "192.0.2.1")
    assert is_admitted(limit, "b")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("testclient", "testclient", True),
    ],
)
def test_an_address_is_one_caller_and_so_is_a_network_whose_addresses_one_customer_chooses(
    one: str, other: str, is_same: bool
) -> None:
    assert (_peer({"client": (one, 1)}) == _peer({"client": (other, 2)})) is is_same


def test_connections_without_an_address_are_one_caller() -> None:
    assert _peer({}) == _peer({"client": None}) == "unknown"


# --- in the service -----------------------------------------------------------------------------------------------


def from_peer(service: Service, address: str, **headers: str) -> httpx.AsyncClient:
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(service.app, client=(address, 5)), base_url=BASE, headers=headers
    )
    service.clients.append(client)
    return client


async def test_an_owner_who_asks_too_often_is_told_to_come_back_and_others_are_served() -> None:
    async with serving(rate_limit="2/hour") as service:
        api, upload_id = service.client(), await service.initiated()
        served = [(await api.get(f"/v1/uploads/{upload_id}")).status_code for _ in range(2)]
        service.store.calls.clear()

        refused = await api.post(f"/v1/uploads/{upload_id}/part-urls", json={"part_numbers": [1]})  # the shortcut's
        other = await service.client("other").get("/v1/uploads")

        assert served == [200, 200]
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert refused.headers["content-type"] == "application/problem+json"
        assert 3_590 <= int(refused.headers["retry-after"]) == refused.json()["retry_after"] <= 3_600
        assert other.status_code == 200
        assert service.store.calls == []


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "198.51.100.7"},
        {"forwarded": "for=198.51.100.7"},
        {"x-real-ip": "198.51.100.7"},
        {"x-request-id": "another"},
    ],
)
async def test_no_header_makes_somebody_another_caller(headers: dict[str, str]) -> None:
    async with serving(rate_limit="1/hour") as service:
        _, file_id = await service.completed()
        await service.core.files.update(file_id, owner="owner", visibility=Visibility.PUBLIC)
        for api in (service.client(), service.client(None)):
            first = await api.get(f"/v1/files/{file_id}")
            second = await api.get(f"/v1/files/{file_id}", headers=headers)

            assert (first.status_code, second.status_code) == (200, 429)


async def test_another_token_of_the_same_owner_is_the_same_caller() -> None:
    async with serving(rate_limit="1/hour") as service:
        answers = [
            await service.client(None, headers={"authorization": f"Bearer {token(jti=str(number))}"}).get("/v1/files")
            for number in range(2)
        ]

        assert [answer.status_code for answer in answers] == [200, 429]


async def test_readers_of_public_files_are_counted_by_their_address() -> None:
    async with serving(rate_limit="1/hour") as service:
        _, file_id = await service.completed()
        await service.core.files.update(file_id, owner="owner", visibility=Visibility.PUBLIC)

        async def read(address: str) -> int:
            return (await from_peer(service, address).get(f"/v1/files/{file_id}")).status_code

        assert [await read("192.0.2.1"), await read("192.0.2.1"), await read("192.0.2.2")] == [200, 429, 200]


async def test_probes_scrapers_and_preflights_are_not_counted() -> None:
    async with serving(rate_limit="1/hour") as service:
        api = service.client()
        await api.get("/v1/files")

        for path in ("/health/live", "/health/ready", "/metrics", "/schema"):
            assert (await api.get(path)).status_code == 200
        assert (await api.options("/v1/files")).status_code == 204
        assert (await api.get("/v1/files")).status_code == 429


async def test_who_is_nobody_is_told_so_and_costs_nobody_a_request() -> None:
    async with serving(rate_limit="1/hour") as service:
        stranger = service.client(None, headers={"authorization": "Bearer nonsense"})
        answers = [(await stranger.get("/v1/files")).status_code for _ in range(3)]

        assert answers == [401] * 3
        assert (await service.client().get("/v1/files")).status_code == 200


async def test_by_default_nobody_is_counted(service: Service) -> None:
    api = service.client()
    answers: list[Any] = [await api.get("/v1/uploads/x") for _ in range(200)]

    assert {answer.status_code for answer in answers} == {404}


def test_the_service_limits_as_its_setting_says(tmp_path: Path) -> None:
    with (
        service_process(tmp_path, auth_jwt_key=KEY, rate_limit="2/hour") as served,
        httpx.Client(base_url=served.url, headers=bearer()) as api,
    ):
        answers = [api.get("/v1/files").status_code for _ in range(3)]

    assert answers == [200, 200, 429]
