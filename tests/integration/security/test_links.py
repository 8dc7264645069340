"""No answer leads where a request says: not by its host, a forwarding header, a path or an origin."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.integration.http.service import Service, serving
from uploadcore import Visibility

EVIL = "evil.example"
HEADERS = [
    {"host": EVIL},
    {"host": f"{EVIL}@127.0.0.1:8484"},
    {"x-forwarded-host": EVIL, "x-forwarded-proto": "https", "x-forwarded-port": "1"},
    {"forwarded": f"host={EVIL};proto=https"},
    {"x-forwarded-prefix": f"//{EVIL}"},
    {"x-original-url": f"//{EVIL}/", "x-rewrite-url": f"//{EVIL}/"},
    {"x-script-name": f"//{EVIL}"},
    {"referer": f"https://{EVIL}/"},
]


@pytest.mark.parametrize("public_url", [None, "https://uploads.example/up"])
@pytest.mark.parametrize("headers", HEADERS)
async def test_links_lead_where_the_service_is_whatever_a_request_says(
    headers: dict[str, str], public_url: str | None
) -> None:
    async with serving(public_url=public_url) as service:
        api = service.client()
        _, file_id = await service.completed()

        created = await api.post("/v1/uploads", json={"filename": "a", "size": 1, "sign": 1}, headers=headers)
        content = await api.get(f"/v1/files/{file_id}/content", headers=headers)
        schema = await api.get("/schema", headers=headers)

        assert (created.status_code, content.status_code, schema.status_code) == (201, 307, 200)
        assert created.headers["location"] == f"{public_url or ''}/v1/uploads/{created.json()['id']}"
        for answer in (created, content, schema):
            assert EVIL not in answer.text
            assert EVIL not in str(answer.headers)


@pytest.mark.parametrize(
    "path",
    [f"//{EVIL}", f"//{EVIL}/..", f"/{EVIL}//", f"/\\{EVIL}", f"/%2f{EVIL}/", f"/v1/..//{EVIL}", f"/https://{EVIL}/"],
)
async def test_no_path_is_redirected_anywhere(service: Service, path: str) -> None:
    for api in (service.client(), service.client(None)):
        answer = await api.get(f"http://127.0.0.1:8484{path}")

        assert answer.status_code in {401, 404}
        assert "location" not in answer.headers


async def test_content_is_a_redirect_to_the_store_and_takes_no_target(service: Service) -> None:
    _, file_id = await service.completed()

    asked = await service.client().get(f"/v1/files/{file_id}/content?url=https://{EVIL}/")
    followed = await service.client().get(f"/v1/files/{file_id}/content")

    assert asked.status_code == 400
    assert urlsplit(followed.headers["location"]).scheme == "memory"


ORIGIN = "https://app.example"
LOOKALIKES = [
    "null",
    "*",
    "https://app.example.evil.example",
    "https://evilapp.example",
    "https://app.example:8443",
    "http://app.example",
    "https://APP.example",
    "https://app.example/",
    "https://app.example https://evil.example",
    "https://a.app.example",
]


@pytest.mark.parametrize("origin", LOOKALIKES)
async def test_an_origin_that_only_looks_like_a_configured_one_may_read_nothing(origin: str) -> None:
    async with serving(cors_origins=[ORIGIN]) as service:
        read = await service.client().get("/v1/files", headers={"origin": origin})
        preflight = await service.client(None).options(
            "/v1/files", headers={"origin": origin, "access-control-request-method": "DELETE"}
        )

        for answer in (read, preflight):
            assert "access-control-allow-origin" not in answer.headers
            assert "access-control-allow-credentials" not in answer.headers


async def test_a_configured_origin_gets_no_say_over_cookies_and_no_cache_mixes_answers() -> None:
    async with serving(cors_origins=[ORIGIN]) as service:
        _, file_id = await service.completed()
        await service.core.files.update(file_id, owner="owner", visibility=Visibility.PUBLIC)

        answer = await service.client(None).get(f"/v1/files/{file_id}", headers={"origin": ORIGIN})

        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-credentials" not in answer.headers
        assert "origin" in answer.headers["vary"].lower()


async def test_by_default_no_page_of_another_origin_may_read_anything(service: Service) -> None:
    answer = await service.client().get("/v1/files", headers={"origin": ORIGIN})

    assert not [name for name in answer.headers if name.startswith("access-control-")]
