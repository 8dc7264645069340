"""`/v1/files` over HTTP: the answers that docs/http.md promises."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.integration.http.service import Service, serving
from uploadcore import Visibility
from uploadcore_http.preconditions import MAX_TAGS, file_etag

CHANGE: dict[str, Any] = {
    "name": "lake.mp4",
    "title": "Trip to the lake",
    "description": "Two days,\n\tone boat.",
    "labels": ["lake", "2026", "été"],
    "visibility": "unlisted",
    "metadata": {"camera": "x200"},
}


# --- reading ------------------------------------------------------------------------------------------------------


async def test_a_file_that_did_not_change_is_not_sent_again(service: Service) -> None:
    api = service.client()
    _, file_id = await service.completed()

    shown = await api.get(f"/v1/files/{file_id}")
    etag = shown.headers["etag"]
    same = await api.get(f"/v1/files/{file_id}", headers={"if-none-match": f'"other", W/{etag}'})
    other = await api.get(f"/v1/files/{file_id}", headers={"if-none-match": '"other"'})
    await api.patch(f"/v1/files/{file_id}", json={"title": "New"})
    changed = await api.get(f"/v1/files/{file_id}", headers={"if-none-match": etag})

    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert "content-length" not in same.headers
    assert same.headers["cache-control"] == shown.headers["cache-control"]
    assert (other.status_code, other.content) == (200, shown.content)
    assert (changed.status_code, changed.json()["title"]) == (200, "New")
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    ("condition", "status"), [("{etag}", 200), ("*", 200), ("W/{etag}", 412), ('"99"', 412), ("9", 400)]
)
async def test_a_read_may_ask_for_a_version_and_that_is_looked_at_first(
    service: Service, condition: str, status: int
) -> None:
    _, file_id = await service.completed()
    api = service.client()
    etag = (await api.get(f"/v1/files/{file_id}")).headers["etag"]
    headers = {"if-match": condition.format(etag=etag)}

    for method in ("GET", "HEAD"):
        plain = await api.request(method, f"/v1/files/{file_id}", headers=headers)
        known = await api.request(method, f"/v1/files/{file_id}", headers={**headers, "if-none-match": etag})

        assert (plain.status_code, known.status_code) == (status, 304 if status == 200 else status)


async def test_a_head_is_the_head_of_the_answer_to_get(service: Service) -> None:
    _, file_id = await service.completed()
    api = service.client()

    for path in (f"/v1/files/{file_id}", "/v1/files", "/v1/files/unknown"):
        got, head = await api.get(path), await api.head(path)

        assert (head.status_code, head.content) == (got.status_code, b"")
        assert {**head.headers, "x-request-id": ""} == {**got.headers, "x-request-id": ""}


@pytest.mark.parametrize(
    ("visibility", "told"),
    [("private", "private, no-cache"), ("unlisted", "private, no-cache"), ("public", "public, no-cache")],
)
async def test_only_a_public_file_may_be_kept_by_shared_caches_and_none_without_asking_again(
    service: Service, visibility: str, told: str
) -> None:
    _, file_id = await service.completed()
    await service.core.files.update(file_id, owner="owner", visibility=Visibility(visibility))
    api = service.client()

    assert (await api.get(f"/v1/files/{file_id}")).headers["cache-control"] == told
    for path in (f"/v1/files/{file_id}/content", "/v1/files", "/v1/files/unknown"):
        assert (await api.get(path)).headers["cache-control"] == "no-store"


async def test_who_no_longer_sees_a_file_does_not_hear_that_it_did_not_change(service: Service) -> None:
    _, file_id = await service.completed()
    await service.core.files.update(file_id, owner="owner", visibility=Visibility.PUBLIC)
    anybody = service.client(None)
    etag = (await anybody.get(f"/v1/files/{file_id}")).headers["etag"]

    await service.client().patch(f"/v1/files/{file_id}", json={"visibility": "private"})

    for condition in ({"if-none-match": etag}, {"if-none-match": "*"}, {"if-match": '"0"'}):
        assert (await anybody.get(f"/v1/files/{file_id}", headers=condition)).status_code == 404


async def test_no_answer_about_a_file_says_where_it_lies(service: Service) -> None:
    _, file_id = await service.completed()
    key = next(iter(service.database.files.values())).address.key
    api = service.client()

    for answer in (
        await api.get(f"/v1/files/{file_id}"),
        await api.get("/v1/files"),
        await api.patch(f"/v1/files/{file_id}", json=CHANGE),
    ):
        assert key not in answer.text
        assert service.store.bucket not in answer.json()


async def test_a_file_without_content_says_what_it_is(service: Service) -> None:
    view = await service.core.uploads.initiate(owner="owner", filename="a", size=1)

    answer = await service.client().get(f"/v1/files/{view.file_id}/content")

    assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "file_not_ready", "uploading")


async def test_the_head_of_the_content_leads_to_the_same_place(service: Service) -> None:
    _, file_id = await service.completed()

    answer = await service.client().head(f"/v1/files/{file_id}/content")

    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["location"].startswith("memory://")


# --- listing ------------------------------------------------------------------------------------------------------


async def test_files_are_found_by_status_and_label_page_by_page(service: Service) -> None:
    api, made = service.client(), []
    for number in range(5):
        _, file_id = await service.completed()
        await service.core.files.update(file_id, owner="owner", labels=["even" if number % 2 == 0 else "odd", "all"])
        made.append(file_id)
    await service.initiated()

    async def found(**query: Any) -> list[str]:
        ids, cursor = [], None
        while True:
            page = await api.get("/v1/files", params={**query, **({"cursor": cursor} if cursor else {})})
            assert page.status_code == 200
            ids += [file["id"] for file in page.json()["files"]]
            cursor = page.json()["next"]
            if cursor is None:
                return ids

    assert await found(label="all", limit=2) == made[::-1]
    assert await found(label="even", limit=1) == made[::-2]
    assert await found(label="ev") == []
    assert await found(status="available", limit=5) == made[::-1]
    assert len(await found()) == 6
    assert len(await found(status="uploading", label="all")) == 0

    await api.delete(f"/v1/files/{made[0]}")
    assert await found(label="even") == made[:0:-2]
    assert await found(status="deleted") == [made[0]]


async def test_a_page_shows_a_file_as_it_is_shown_alone(service: Service) -> None:
    _, file_id = await service.completed()
    api = service.client()
    await api.patch(f"/v1/files/{file_id}", json=CHANGE)

    [listed] = (await api.get("/v1/files")).json()["files"]

    assert listed == (await api.get(f"/v1/files/{file_id}")).json()


@pytest.mark.parametrize(
    "query",
    [
        "status=gone",
        "status=",
        "label=",
        "label=" + "x" * 65,
        "label=%00",
        "label=a&label=b",
        "cursor=nonsense",
        "cursor=",
        "cursor=" + "x" * 513,
        "limit=0",
        "limit=1001",
        "limit=x",
        "visibility=public",
        "owner=other",
    ],
)
async def test_a_search_that_does_not_fit_is_400(service: Service, query: str) -> None:
    answer = await service.client().get(f"/v1/files?{query}")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


# --- changing -----------------------------------------------------------------------------------------------------


async def test_a_change_sets_what_it_names_and_nothing_else(service: Service) -> None:
    _, file_id = await service.completed()
    api = service.client()
    before = (await api.get(f"/v1/files/{file_id}")).json()

    changed = await api.patch(f"/v1/files/{file_id}", json=CHANGE)
    titled = await api.patch(f"/v1/files/{file_id}", json={"title": ""})

    assert changed.status_code == titled.status_code == 200
    after = changed.json()
    assert after == {**before, **CHANGE, "version": before["version"] + 1, "updated_at": after["updated_at"]}
    assert changed.headers["etag"] == file_etag(after["version"])
    assert titled.json() == {
        **after,
        "title": "",
        "version": after["version"] + 1,
        "updated_at": titled.json()["updated_at"],
    }
    assert titled.json() == (await api.get(f"/v1/files/{file_id}")).json()


async def test_a_change_that_changes_nothing_is_none(service: Service) -> None:
    _, file_id = await service.completed()
    api = service.client()
    first = await api.patch(f"/v1/files/{file_id}", json=CHANGE)

    for same in ({}, {"title": CHANGE["title"]}, CHANGE):
        again = await api.patch(f"/v1/files/{file_id}", json=same)

        assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), first.headers["etag"])


BAD_CHANGES: dict[str, Any] = {
    "a null": {"title": None},
    "an unknown member": {"owner": "other"},
    "what is not to be changed": {"status": "available"},
    "its version": {"version": 7},
    "a visibility there is not": {"visibility": "everybody"},
    "no name": {"name": ""},
    "a name of 256 characters": {"name": "a" * 256},
    "a title of 257 characters": {"title": "a" * 257},
    "a title of two lines": {"title": "a\nb"},
    "a description of 4,097 characters": {"description": "a" * 4_097},
    "U+0000": {"description": "a\0b"},
    "an empty label": {"labels": [""]},
    "a label of 65 characters": {"labels": ["a" * 65]},
    "33 labels": {"labels": [str(number) for number in range(33)]},
    "a label twice": {"labels": ["a", "a"]},
    "a label of two lines": {"labels": ["a\nb"]},
    "no list": {"labels": "a"},
    "3 KB of metadata": {"metadata": {f"k{n}": "v" * 1_000 for n in range(3)}},
    "a metadata key in capitals": {"metadata": {"Camera": "x"}},
    "a list": [],
}


@pytest.mark.parametrize("change", BAD_CHANGES.values(), ids=BAD_CHANGES.keys())
async def test_a_change_that_does_not_fit_is_400_and_changes_nothing(service: Service, change: Any) -> None:
    _, file_id = await service.completed()
    before = dict(service.database.files)

    answer = await service.client().patch(f"/v1/files/{file_id}", json=change)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert service.database.files == before


async def test_the_largest_change_there_is_fits(service: Service) -> None:
    _, file_id = await service.completed()
    change = {
        "name": "\U0001f600" * 255,
        "title": "\U0001f600" * 256,
        "description": "\U0001f600" * 4_096,
        "labels": ["\U0001f600" * 62 + f"{number:02}" for number in range(32)],
        "metadata": {f"k{number:02}": "v" * 60 for number in range(32)},
    }

    answer = await service.client().patch(f"/v1/files/{file_id}", json=change)

    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in change} == change


@pytest.mark.parametrize("kind", ["application/merge-patch+json", "Application/JSON-Patch+JSON; charset=utf-8"])
async def test_a_patch_that_would_mean_something_else_is_415(service: Service, kind: str) -> None:
    _, file_id = await service.completed()

    answer = await service.client().patch(
        f"/v1/files/{file_id}", content=b'{"title": "x"}', headers={"content-type": kind}
    )

    assert (answer.status_code, answer.json()["code"]) == (415, "content_type_not_allowed")


# --- conditions ---------------------------------------------------------------------------------------------------


async def changed(api: httpx.AsyncClient, method: str, file_id: str, condition: str) -> httpx.Response:
    body = {"title": "Changed"} if method == "PATCH" else None
    return await api.request(method, f"/v1/files/{file_id}", json=body, headers={"if-match": condition})


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("{etag}", True),
        ('"{version}"', True),
        ("*", True),
        ('"99", {etag}, "0"', True),
        ("W/{etag}", False),
        ('"0"', False),
        ('"other"', False),
    ],
)
async def test_a_change_happens_only_if_its_condition_holds(
    service: Service, method: str, condition: str, holds: bool
) -> None:
    _, file_id = await service.completed()
    api = service.client()
    await api.patch(f"/v1/files/{file_id}", json={"title": "Before"})
    shown = await api.get(f"/v1/files/{file_id}")
    given = condition.format(etag=shown.headers["etag"], version=shown.json()["version"])

    answer = await changed(api, method, file_id, given)

    if holds:
        assert answer.status_code in {200, 204}
    else:
        assert (answer.status_code, answer.json()["code"]) == (412, "version_conflict")
        assert (await api.get(f"/v1/files/{file_id}")).json() == shown.json()


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_condition_does_not_tell_whether_a_foreign_file_is_there(service: Service, method: str) -> None:
    _, file_id = await service.completed()

    for condition in ("*", '"0"', '"1"', 'W/"1"'):
        assert (await changed(service.client("other"), method, file_id, condition)).status_code == 404


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [{"if-match": "1"}, {"if-match": ", ".join(['"1"'] * (MAX_TAGS + 1))}, {"if-none-match": "*"}],
    ids=["no tag", "too many tags", "If-None-Match"],
)
async def test_a_condition_that_can_not_be_meant_is_400_and_nothing_happens(
    service: Service, method: str, headers: dict[str, str]
) -> None:
    _, file_id = await service.completed()
    before = dict(service.database.files)

    answer = await service.client().request(method, f"/v1/files/{file_id}", json={"title": "x"}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert service.database.files == before


async def test_of_those_who_change_the_same_version_one_succeeds(service: Service) -> None:
    _, file_id = await service.completed()
    api = service.client()
    etag = (await api.get(f"/v1/files/{file_id}")).headers["etag"]

    answers = await asyncio.gather(
        *(
            api.patch(f"/v1/files/{file_id}", json={"title": str(number)}, headers={"if-match": etag})
            for number in range(10)
        )
    )

    [winner] = [answer for answer in answers if answer.status_code == 200]
    assert [answer.status_code for answer in answers].count(412) == 9
    assert (await api.get(f"/v1/files/{file_id}")).json() == winner.json()


async def test_without_a_condition_every_change_happens_and_the_last_stands(service: Service) -> None:
    _, file_id = await service.completed()
    api = service.client()

    answers = await asyncio.gather(
        *(api.patch(f"/v1/files/{file_id}", json={"title": str(number)}) for number in range(4))
    )

    assert {answer.status_code for answer in answers} == {200}
    last = max(answers, key=lambda answer: int(answer.json()["version"]))
    assert (await api.get(f"/v1/files/{file_id}")).json() == last.json()


# --- deleting -----------------------------------------------------------------------------------------------------


async def test_deleting_is_one_deletion_however_often_it_is_asked_for(service: Service) -> None:
    _, file_id = await service.completed()
    api = service.client()

    statuses = [(await api.delete(f"/v1/files/{file_id}")).status_code for _ in range(3)]

    assert statuses == [204, 204, 204]
    assert (await api.get(f"/v1/files/{file_id}")).json()["status"] == "deleted"
    assert (await api.get(f"/v1/files/{file_id}/content")).json()["code"] == "file_not_ready"
    assert (await api.patch(f"/v1/files/{file_id}", json={"title": "x"})).json()["code"] == "file_not_ready"
    assert service.store.calls.count("delete") == 1


async def test_a_file_without_content_is_not_deleted_but_its_upload_aborted(service: Service) -> None:
    view = await service.core.uploads.initiate(owner="owner", filename="a", size=1)

    answer = await service.client().delete(f"/v1/files/{view.file_id}")

    assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "file_not_ready", "uploading")


async def test_a_page_of_another_origin_may_change_a_file_with_a_condition() -> None:
    async with serving(cors_origins=["https://app.example"]) as service:
        preflight = await service.client(None).options(
            "/v1/files/x",
            headers={
                "origin": "https://app.example",
                "access-control-request-method": "PATCH",
                "access-control-request-headers": "authorization, content-type, if-match",
            },
        )

        assert preflight.status_code == 200
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
