"""U+0000 is refused in every text that can be stored, on both databases alike."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from uploadcore.errors import InvalidRequestError
from uploadcore.file import File
from uploadcore.ports import IdempotencyRecord
from uploadcore.testing import make_event, make_file, make_upload
from uploadcore.upload import Address, Transition, Upload
from uploadcore_sql import SqlDatabase

HOUR = timedelta(hours=1)
NUL = "a\0b"
UPLOAD: dict[str, Any] = {
    **dict.fromkeys(("id", "owner", "file_id", "filename", "content_type", "fingerprint", "lease_owner"), NUL),
    "address": Address(NUL, "key"),
    "metadata": {"key": NUL},
}
FILE: dict[str, Any] = {
    **dict.fromkeys(("id", "owner", "name", "upload_id", "content_type", "title", "description", "manifest_url"), NUL),
    "labels": (NUL,),
    "metadata": {NUL: "value"},
    "address": Address("bucket", NUL),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> SqlDatabase:
    found: SqlDatabase = request.getfixturevalue("in_a_file" if request.param == "sqlite" else "emptied")
    return found


def test_every_field_with_text_is_here() -> None:
    """Whoever adds one adds it above. A checksum is base64 by its own rule."""
    without = {
        "plan",
        "checksum",
        "expected",
        "strategy",
        "state",
        "reason",
        "reserved_bytes",
        "size",
        "version",
        "status",
        "verified_by",
        "visibility",
    }
    for record, here in ((Upload, UPLOAD), (File, FILE)):
        assert {field.name for field in fields(record)} - without - here.keys() <= {
            *(
                "created_at",
                "updated_at",
                "expires_at",
                "lease_until",
                "fenced_at",
                "called_at",
                "lost_at",
                "recheck_at",
            )
        }


async def test_no_text_of_an_upload_may_have_it(database: SqlDatabase) -> None:
    for name, value in UPLOAD.items():
        with pytest.raises(InvalidRequestError, match=r"U\+0000"):
            async with database.transaction() as tx:
                await tx.uploads.add(replace(make_upload("a"), **{name: value}), lifetime=HOUR, lease=None)
    async with database.transaction() as tx:
        upload = await tx.uploads.add(make_upload("a"), lifetime=HOUR, lease=None)
    for single in (True, False):
        with pytest.raises(InvalidRequestError, match=r"U\+0000"):
            async with database.transaction(single=single) as tx:
                await tx.uploads.save(Transition(replace(upload, filename=NUL)))
    async with database.reader() as tx:
        assert await tx.uploads.get("a") == upload


async def test_no_text_of_a_file_may_have_it(database: SqlDatabase) -> None:
    for name, value in FILE.items():
        with pytest.raises(InvalidRequestError, match=r"U\+0000"):
            async with database.transaction() as tx:
                await tx.files.add(replace(make_file("f"), **{name: value}))
    async with database.reader() as tx:
        assert await tx.files.get("f") is None


async def test_no_text_of_an_event_a_key_or_a_quota_may_have_it(database: SqlDatabase) -> None:
    events = [make_event(NUL), make_event("e", upload_id=NUL), make_event("e", data={"a": NUL})]
    keys = [
        replace(IdempotencyRecord("o", "k", "f", "u"), **{name: NUL})
        for name in ("owner", "key", "fingerprint", "upload_id")
    ]
    async with database.transaction() as tx:
        for event in events:
            with pytest.raises(InvalidRequestError, match=r"U\+0000"):
                await tx.outbox.add(event)
        for key in keys:
            with pytest.raises(InvalidRequestError, match=r"U\+0000"):
                await tx.idempotency.claim(key, kept=HOUR)
        with pytest.raises(InvalidRequestError, match=r"U\+0000"):
            await tx.quotas.reserve(NUL, size=1, max_uploads=None, max_bytes=None)
        await tx.quotas.reserve("goes on", size=1, max_uploads=None, max_bytes=None)


async def test_a_backslash_that_looks_like_one_is_none(database: SqlDatabase) -> None:
    async with database.transaction() as tx:
        file = await tx.files.add(make_file("f", name="a\\u0000b", labels=("\\u0000",), metadata={"\\0": "\\\\u0000"}))
    async with database.reader() as tx:
        assert await tx.files.get("f") == file
