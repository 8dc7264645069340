"""`/v1/uploads` over HTTP: the answers that docs/http.md promises."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.http.service import Service, redeemable, serving
from uploadcore import UploadConfig
from uploadcore.ports import Admission


class HeldStore:
    """Keeps a store from answering a completion until it is let go."""

    def __init__(self, service: Service) -> None:
        self._gate = asyncio.Event()
        complete = service.store.complete_multipart

        async def held(*args: Any, **kwargs: Any) -> None:
            await self._gate.wait()
            await complete(*args, **kwargs)

        service.store.complete_multipart = held  # type: ignore[method-assign]

    def let_go(self) -> None:
        self._gate.set()


INITIATE: dict[str, Any] = {"filename": "trip.mp4", "size": 25, "part_size": 10, "content_type": "video/mp4"}


async def test_a_file_goes_from_initiate_to_download(service: Service) -> None:
    api = service.client()

    begun = await api.post("/v1/uploads", json={**INITIATE, "title": "Trip", "metadata": {"camera": "x100"}, "sign": 2})

    assert begun.status_code == 201
    upload = begun.json()
    assert begun.headers["location"] == f"/v1/uploads/{upload['id']}"
    assert (upload["state"], upload["strategy"]) == ("uploading", "multipart")
    assert (upload["part_size"], upload["part_count"], upload["metadata"]) == (10, 3, {"camera": "x100"})
    assert datetime.fromisoformat(upload["expires_at"]) > datetime.now(UTC)
    assert [(part["part_number"], part["offset"], part["length"]) for part in upload["parts"]] == [
        (1, 0, 10),
        (2, 10, 10),
    ]

    third = await api.post(f"/v1/uploads/{upload['id']}/part-urls", json={"part_numbers": [3]})
    assert third.status_code == 200
    for part in [*upload["parts"], *third.json()["parts"]]:
        await service.store.put(redeemable(part), b"x" * part["length"])

    parts = await api.get(f"/v1/uploads/{upload['id']}/parts")
    assert parts.json()["missing"] == []
    assert parts.json()["uploaded_bytes"] == 25

    done = await api.post(f"/v1/uploads/{upload['id']}/complete", json={})
    assert done.status_code == 200
    file = done.json()["file"]
    assert done.json()["upload"]["state"] == "completed"
    assert (file["status"], file["size"], file["version"], file["title"]) == ("available", 25, 1, "Trip")
    assert file["checksum"]["verified_by"] == "store"

    shown = await api.get(f"/v1/files/{upload['file_id']}")
    assert shown.json() == file
    content = await api.get(f"/v1/files/{upload['file_id']}/content")
    assert content.status_code == 307
    assert content.content == b""
    assert content.headers["location"].startswith("memory://")


async def test_the_first_page_of_parts_tells_of_the_whole(service: Service) -> None:
    api, upload_id = service.client(), await service.initiated(size=95)
    signed = await service.core.uploads.sign_parts(upload_id, owner="owner", part_numbers=[1, 2, 3, 7])
    for part in signed:
        await service.store.put(part.request, b"x" * 10)

    first = (await api.get(f"/v1/uploads/{upload_id}/parts", params={"limit": 2})).json()
    second = (await api.get(f"/v1/uploads/{upload_id}/parts", params={"after": first["next"], "limit": 2})).json()

    assert [part["part_number"] for part in first["parts"]] == [1, 2]
    assert [part["part_number"] for part in second["parts"]] == [3, 7]
    assert second["next"] is None
    for page in (first, second):
        assert (page["missing"], page["mismatched"], page["uploaded_bytes"]) == ([[4, 6], [8, 10]], [], 40)


async def test_completing_too_early_says_exactly_what_is_missing(service: Service) -> None:
    api, upload_id = service.client(), await service.initiated(size=95)
    [second] = await service.core.uploads.sign_parts(upload_id, owner="owner", part_numbers=[2])
    await service.store.put(second.request, b"x" * 10)

    answer = await api.post(f"/v1/uploads/{upload_id}/complete", json={})

    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["status"], problem["upload_id"]) == ("parts_missing", 409, upload_id)
    assert problem["type"].endswith("/errors/parts_missing")
    assert problem["missing"] == [[1, 1], [3, 10]]


async def test_completing_again_gives_the_same_answer(service: Service) -> None:
    api = service.client()
    upload_id, _ = await service.completed()

    answers = [await api.post(f"/v1/uploads/{upload_id}/complete", content=body) for body in (b"", b"{}")]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()


async def test_a_store_that_takes_its_time_is_answered_with_202() -> None:
    # Rule 20 lets a request take 25 s; a caller is told after completion_wait that the store still assembles.
    async with serving(config=UploadConfig(completion_wait=timedelta(milliseconds=20))) as slow:
        upload_id = await slow.initiated()
        await slow.upload_parts(upload_id)
        held = HeldStore(slow)
        answer = await slow.client().post(f"/v1/uploads/{upload_id}/complete", json={})

        assert answer.status_code == 202
        assert int(answer.headers["retry-after"]) >= 1
        assert (answer.json()["upload"]["state"], answer.json()["file"]) == ("completing", None)
        again = await slow.client().delete(f"/v1/uploads/{upload_id}")
        assert (again.status_code, again.json()["code"]) == (409, "upload_busy")
        assert int(again.headers["retry-after"]) == again.json()["retry_after"]
        held.let_go()


async def test_an_aborted_upload_says_so_to_everybody_who_comes_after(service: Service) -> None:
    api, upload_id = service.client(), await service.initiated()

    aborted = await api.delete(f"/v1/uploads/{upload_id}")
    again = await api.delete(f"/v1/uploads/{upload_id}")
    signing = await api.post(f"/v1/uploads/{upload_id}/part-urls", json={"part_numbers": [1]})
    completing = await api.post(f"/v1/uploads/{upload_id}/complete", json={})

    assert (aborted.status_code, aborted.content, again.status_code) == (204, b"", 204)
    for refused in (signing, completing):
        assert refused.status_code == 409
        problem = refused.json()
        assert (problem["code"], problem["state"], problem["reason"]) == ("upload_closed", "aborted", "aborted")


async def test_a_repeated_initiate_with_a_key_returns_the_same_upload(service: Service) -> None:
    api, key = service.client(), {"idempotency-key": "once, please"}

    first = await api.post("/v1/uploads", json=INITIATE, headers=key)
    second = await api.post("/v1/uploads", json={**INITIATE, "sign": 1}, headers=key)
    other = await api.post("/v1/uploads", json={**INITIATE, "size": 26}, headers=key)

    assert first.json()["id"] == second.json()["id"]
    assert len(second.json()["parts"]) == 1
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


async def test_uploads_are_found_by_state_and_fingerprint_page_by_page(service: Service) -> None:
    api = service.client()
    ids = [await service.initiated(fingerprint="f" if number % 2 else None) for number in range(6)]
    await service.core.uploads.abort(ids[0], owner="owner")

    marked = await api.get("/v1/uploads", params={"fingerprint": "f", "state": "uploading"})
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await api.get("/v1/uploads", params={"limit": "4", **cursor})).json()
        pages.append([upload["id"] for upload in page["uploads"]])
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}

    assert {upload["id"] for upload in marked.json()["uploads"]} == {ids[1], ids[3], ids[5]}
    assert [len(page) for page in pages] == [4, 2]
    assert sorted(one for page in pages for one in page) == sorted(ids)


async def test_checksums_and_lengths_of_parts_are_bound_into_their_urls(service: Service) -> None:
    api, upload_id = service.client(), await service.initiated(size=None)
    checksums = {"1": "AAAAAA==", "2": "AAAAAAAAAAA=", "3": "A" * 43 + "="}

    answer = await api.post(
        f"/v1/uploads/{upload_id}/part-urls",
        json={"part_numbers": [1, 2, 3], "checksums": checksums, "lengths": {"2": 7}},
    )

    assert answer.status_code == 200
    parts = answer.json()["parts"]
    assert [list(part["headers"]) for part in parts] == [
        ["x-amz-checksum-crc32c"],
        ["x-amz-checksum-crc64nvme"],
        ["x-amz-checksum-sha256"],
    ]
    assert [part["length"] for part in parts] == [None, 7, None]


@pytest.mark.parametrize(
    ("limits", "body", "status", "code"),
    [
        (Admission(max_size=10), INITIATE, 413, "too_large"),
        (Admission(content_types=("image/*",)), INITIATE, 415, "content_type_not_allowed"),
        (Admission(max_open_uploads=0), INITIATE, 403, "quota_exceeded"),
        (Admission(), {**INITIATE, "file_id": "unknown"}, 404, "file_not_found"),
        (Admission(), {**INITIATE, "size": 53_687_091_200_001}, 413, "too_large"),
    ],
)
async def test_what_is_not_admitted_is_refused_with_its_reason(
    limits: Admission, body: dict[str, Any], status: int, code: str
) -> None:
    async with serving(limits=limits) as service:
        answer = await service.client().post("/v1/uploads", json=body)

        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["title"]


async def test_a_part_outside_the_plan_is_refused(service: Service) -> None:
    upload_id = await service.initiated()

    answer = await service.client().post(f"/v1/uploads/{upload_id}/part-urls", json={"part_numbers": [4]})

    assert (answer.status_code, answer.json()["code"]) == (422, "part_out_of_range")
